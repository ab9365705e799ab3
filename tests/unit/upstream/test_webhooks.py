"""Webhooks: signed so that any Standard Webhooks library takes them, and sent to nowhere but public addresses."""

import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from upstream import public_address
from upstream.public_address import Forbidden, checked_url, is_reachable
from upstream.webhooks import Delivery, Webhook, new_secret, send, signature

HERE = [ipaddress.ip_network("127.0.0.0/8")]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """Somebody's server, and what it was sent."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.url = ""

    async def serve(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers={"location": self.url})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


def _webhook(url: str) -> Webhook:
    return Webhook(id="msg_1", url=url, secret=SECRET, body=b'{"a":1}')


def test_the_signature_is_that_of_the_published_example():
    """The one that the libraries of Standard Webhooks are tested with."""
    body = b'{"test": 2432232314}'
    made = signature(SECRET, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s=1614265330, body=body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_webhook_carries_id_time_and_signature_over_its_very_bytes(receiver: Receiver):
    """Checked as a receiver would."""
    assert await send(_webhook(receiver.url), allowed=HERE) == Delivery()
    headers, body = receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.digest(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert (headers["webhook-id"], body) == ("msg_1", b'{"a":1}')


async def test_a_redirect_is_a_failure_and_followed_nowhere(receiver: Receiver):
    """It would lead around the check of the address."""
    receiver.status = 307
    done = await send(_webhook(receiver.url), allowed=HERE)
    assert (done.problem, len(receiver.got)) == ("answered with status 307", 1)


async def test_gone_is_final_and_an_error_is_not(receiver: Receiver):
    """410 is how a receiver says never again."""
    receiver.status = 410
    assert (await send(_webhook(receiver.url), allowed=HERE)).final
    receiver.status = 500
    assert not (await send(_webhook(receiver.url), allowed=HERE)).final


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)
def test_an_address_that_is_not_public_is_out_of_reach(address: str):
    """Private, loopback, link-local, metadata, multicast, and IPv6 that leads to such IPv4."""
    assert not is_reachable(ipaddress.ip_address(address), allowed=[])
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Forbidden):
        checked_url(f"https://{host}/hook", allowed=[])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_within_reach(address: str):
    """IPv4, IPv6, and IPv4 behind a translator."""
    assert is_reachable(ipaddress.ip_address(address), allowed=[])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https:///hook",
        "https://user:pw@example.com/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://017700000001/",
        "https://[::1%25lo]/",
        "https://%31%32%37.0.0.1/",
        "https://127.0.0.1%2f@example.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://exam ple.com/",
        "https://example.com/\n",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_a_url_that_could_mean_something_else_is_refused(url: str):
    """Other spellings of loopback, credentials, no TLS, no host."""
    with pytest.raises(Forbidden):
        checked_url(url, allowed=[])


async def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(receiver: Receiver):
    """`localhost` is a name like any other."""
    port = receiver.url.rsplit(":", 1)[1]
    done = await send(_webhook(f"https://localhost:{port}"), allowed=[])
    assert (done.problem, receiver.got) == ("the URL is refused: its address is not public", [])


async def test_the_connection_goes_to_the_address_that_was_judged(receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    """The name is asked for once: what it answers later changes nothing."""
    asked: list[str] = []

    async def look_up(host: str) -> list[ipaddress.IPv4Address]:
        asked.append(host)
        return [ipaddress.IPv4Address("10.255.255.1"), ipaddress.IPv4Address("127.0.0.1")]

    monkeypatch.setattr(public_address, "_look_up", look_up)
    port = receiver.url.split(":")[2]
    assert await send(_webhook(f"http://hooks.invalid:{port}"), allowed=HERE) == Delivery()
    assert (asked, len(receiver.got)) == (["hooks.invalid"], 1)


async def test_nobody_at_the_address_is_a_failure_and_no_exception():
    """So is a name that nobody has."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        done = await send(_webhook(f"http://127.0.0.1:{held.getsockname()[1]}/"), allowed=HERE)
    assert done.problem.startswith("no answer")
    assert "refused" in (await send(_webhook("https://nobody.invalid/"), allowed=HERE)).problem


def test_each_secret_is_new():
    """24 random bytes, as the libraries read them."""
    first, second = new_secret(), new_secret()
    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 24
