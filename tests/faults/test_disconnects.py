"""Clients that leave: the provider's policy says what becomes of the answer and what it costs, on both protocols."""

import asyncio
import dataclasses
import json
import socket
import struct
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.faults.at_rest import Run
from tests.faults.checker import Attempt, Price, read_log
from tests.faults.toxic_proxy import ToxicProxy, toxic
from tests.integration.running import Account, gateway, provider, wait_until
from tests.patience import promised

PROTOCOLS = ("openai", "anthropic")
OPENAI_OR_EACH = ("openai", pytest.param("anthropic", marks=pytest.mark.thorough))
"""For what does not depend on the protocol."""
POLICIES = ("drain", "cancel", "absorb")
MORE = {
    "capped": "on_disconnect: drain\n    drain: {seconds: 2, at_once: 2}",
    "brief": "timeouts: {connect: 2, first_byte: 2, idle: 2, total: 2}",
}
PRICE = Price(per_million={"input": Decimal("1.5"), "output": Decimal(6)})
USED = {"input_tokens": 400, "output_tokens": 300}
WHOLE = PRICE.of({"input": 400, "output": 300})
LEAVING = USED | {"chunks": 30, "gap_ms": 40}
PIECES = 5
RESET = struct.pack("ii", 1, 0)


def config(url: str) -> str:
    """A provider and a model for every protocol and policy, at one price."""
    providers, models = [], []
    for protocol in PROTOCOLS:
        base_url = f"{url}/v1" if protocol == "openai" else url
        for name in (*POLICIES, *MORE):
            what = MORE.get(name, f"on_disconnect: {name}")
            known = f"{protocol}-{name}"
            providers.append(
                f'  - id: {known}\n    protocol: {protocol}\n    base_url: "{base_url}"\n'
                f"    {what}\n    accounts: [{{id: {known}-a, api_key: key-{known}}}]\n"
            )
            models.append(
                f"  - id: {known}\n    category: chat\n    max_output: 4096\n"
                f"    routes: [{{provider: {known}, model: upstream, priority: 1, cost: {{input: 1, output: 4}}}}]\n"
                "    price: {markup: 1.5}\n"
            )
    head = "surfaces: [{prefix: /v1, dialect: openai}]\n"
    tail = "plans: [{id: enterprise}]\nbilling: {default_plan: enterprise, welcome_credit: 0}\n"
    return f"{head}providers:\n{''.join(providers)}models:\n{''.join(models)}{tail}"


@dataclasses.dataclass(kw_only=True)
class Rig(Run):
    """The run, and the network to its provider."""

    network: ToxicProxy


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One gateway that reaches its provider by a network of ours."""
    directory: Path = tmp_path_factory.mktemp("disconnects")
    prices = {f"{protocol}-{name}": PRICE for protocol in PROTOCOLS for name in (*POLICIES, *MORE)}
    with (
        provider(directory) as fake,
        toxic(urlsplit(fake.url).netloc) as network,
        gateway(directory, config(f"http://{network.address}")) as running,
    ):
        found = Rig(gateway=running, provider=fake, prices=prices, network=network)
        yield found


def body_of(model: str, script: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """A request whose answer is scripted."""
    text = "x" * 600 + " #script " + json.dumps(script)
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}


async def leave(rig: Rig, account: Account, model: str, script: dict[str, Any], *, after: int = PIECES) -> str:
    """A stream that its client leaves after so many pieces; its request id."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        url = f"{account.gateway.base_url}/v1/chat/completions"
        body = body_of(model, script, stream=True)
        async with session.post(url, json=body, headers=account.headers) as reply:
            assert reply.status == 200, await reply.text()
            request_id, seen = reply.headers["x-request-id"], b""
            async for data in reply.content.iter_any():
                seen += data
                if seen.count(b'"content":"') + seen.count(b'"content": "') > after:
                    break
            reply.close()
    rig.delivered[request_id] = after
    return request_id


async def asked(rig: Rig, account: Account, model: str, script: dict[str, Any], *, arrives: int) -> None:
    """A whole answer whose client leaves once the provider has been asked; `arrives` counts the log's requests."""
    async with aiohttp.ClientSession() as session:
        url = f"{account.gateway.base_url}/v1/chat/completions"
        posting = asyncio.create_task(
            session.post(url, json=body_of(model, script, stream=False), headers=account.headers)  # type: ignore[arg-type]  # aiohttp's context manager is a coroutine too
        )
        wanted = lambda: len(read_log(rig.provider.log)) > arrives  # noqa: E731
        await asyncio.to_thread(wait_until, wanted, timeout_s=10, what="the provider is asked")
        posting.cancel()
        await asyncio.wait([posting])


def ended_attempt(rig: Rig, request_id: str) -> Attempt:
    """The one attempt of a request, as the provider saw it, once it has ended."""

    def found() -> Attempt | None:
        attempts = read_log(rig.provider.log)[request_id]
        assert len(attempts) == 1
        return attempts[0] if attempts[0].cut != "open" else None

    attempt: Attempt = wait_until(found, timeout_s=10, what="the provider's end")
    return attempt


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_left_stream_is_charged_by_its_policy(rig: Rig, protocol: str, policy: str) -> None:
    """drain: what the provider reports; cancel: what was delivered; absorb: nothing. The receipt says which."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    request_id = await leave(rig, account, f"{protocol}-{policy}", LEAVING)
    receipt = await asyncio.to_thread(account.receipt, request_id)
    charge, attempt = Decimal(receipt["charge"]), await asyncio.to_thread(ended_attempt, rig, request_id)
    assert (receipt["ended"], receipt["policy"]) == ("client_gone", policy)
    if policy == "drain":
        assert (attempt.finished, charge, receipt["evidence"]) == (True, WHOLE, "provider")
    else:
        assert attempt.cut == "client", "the provider must be told to stop"
        assert attempt.chunks_sent < 30
    if policy == "cancel":
        assert PRICE.of({"output": PIECES}) <= charge < WHOLE
        assert receipt["evidence"] == "counted"
    if policy == "absorb":
        assert charge == 0


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_left_whole_answer_is_charged_by_its_policy(rig: Rig, protocol: str, policy: str) -> None:
    """Nothing was delivered: only drain, which lets the provider finish, charges."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    before = set(read_log(rig.provider.log))
    script = USED | {"chunks": 5, "first_byte_ms": 1200}
    await asked(rig, account, f"{protocol}-{policy}", script, arrives=len(before))
    (request_id,) = set(read_log(rig.provider.log)) - before
    receipt = await asyncio.to_thread(account.receipt, request_id)
    attempt = await asyncio.to_thread(ended_attempt, rig, request_id)
    assert (receipt["ended"], receipt["policy"]) == ("client_gone", policy)
    assert Decimal(receipt["charge"]) == (WHOLE if policy == "drain" else 0)
    assert attempt.finished == (policy == "drain")


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
async def test_a_drain_ends_after_its_seconds_and_charges_what_was_delivered(rig: Rig, protocol: str) -> None:
    """Two seconds after its client the provider is told to stop too."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    began_s = time.monotonic()
    request_id = await leave(rig, account, f"{protocol}-capped", LEAVING | {"chunks": 100, "gap_ms": 100})
    attempt = await asyncio.to_thread(ended_attempt, rig, request_id)
    assert 2 <= time.monotonic() - began_s < promised(6)
    assert attempt.cut == "client"
    receipt = await asyncio.to_thread(account.receipt, request_id)
    assert (receipt["ended"], receipt["evidence"]) == ("client_gone", "counted")
    assert PRICE.of({"output": PIECES}) <= Decimal(receipt["charge"]) < WHOLE


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
async def test_no_more_drain_at_once_than_the_provider_allows(rig: Rig, protocol: str) -> None:
    """Five leave within a moment where two may drain: two are read to their usage, three are cancelled."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    script = LEAVING | {"chunks": 25, "gap_ms": 60}
    ids = await asyncio.gather(*(leave(rig, account, f"{protocol}-capped", script) for _ in range(5)))
    receipts = [await asyncio.to_thread(account.receipt, request_id) for request_id in ids]
    assert {receipt["ended"] for receipt in receipts} == {"client_gone"}
    charges = {"provider": [], "counted": []}
    for receipt in receipts:
        charges[receipt["evidence"]].append(Decimal(receipt["charge"]))
    assert charges["provider"] == [WHOLE, WHOLE]
    assert all(PRICE.of({"output": PIECES}) <= charge < WHOLE for charge in charges["counted"])


def connected(account: Account, body: dict[str, Any], *, receive_bytes: int | None = None) -> socket.socket:
    """A client of bare sockets that has asked and has read nothing yet."""
    url = urlsplit(account.gateway.base_url)
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(20)
    client.connect((url.hostname, url.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {account.key}\r\n"
    client.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    return client


def read_until(client: socket.socket, mark: bytes) -> bytes:
    """What comes until the mark, or the end."""
    seen = bytearray()
    while seen.find(mark, max(0, len(seen) - len(mark) - 65536)) < 0:  # the rest was looked through before
        data = client.recv(65536)
        if not data:
            break
        seen += data
    return bytes(seen)


def request_id_in(head: bytes) -> str:
    """The request id of an answer."""
    return head.lower().split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()


def reset(client: socket.socket) -> None:
    """Leaves without a word: RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_who_leaves_after_the_last_bytes_has_not_left(rig: Rig, policy: str, stream: bool) -> None:
    """A reset when everything was handed to the socket, read or not, is no disconnect: the answer is complete."""
    account = rig.customer(credit_usd="1")
    for reads in (True, False):
        before = set(read_log(rig.provider.log))
        client = connected(account, body_of(f"openai-{policy}", USED | {"chunks": 3}, stream=stream))
        if reads:
            request_id = request_id_in(read_until(client, b"[DONE]" if stream else b'"cost"'))
        else:
            new = lambda before=before: set(read_log(rig.provider.log)) - before  # noqa: E731
            (request_id,) = wait_until(new, timeout_s=10, what="the provider is asked")
            account.receipt(request_id)
        reset(client)
        receipt = account.receipt(request_id)
        assert (receipt["ended"], receipt["evidence"]) == ("complete", "provider")
        assert Decimal(receipt["charge"]) == WHOLE


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
def test_a_provider_lost_while_the_client_does_not_read_is_the_clients_leaving(rig: Rig, protocol: str) -> None:
    """Its own socket was blocked for longer than a second: what it had is charged, not given away."""
    account = rig.customer(credit_usd="5")
    # 40 MB: the kernel's buffers on the way take 20 of them
    script = {"input_tokens": 1500, "output_tokens": 4096, "chunks": 8000, "text": "word " * 1000}
    client = connected(account, body_of(f"{protocol}-cancel", script, stream=True), receive_bytes=4096)
    request_id = request_id_in(read_until(client, b"word word"))
    time.sleep(2)  # the client's slowness is the subject
    rig.network.reset_all()
    time.sleep(0.5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # what was left for it comes at once
    read_until(client, b"\r\n0\r\n\r\n")
    client.close()
    receipt = account.receipt(request_id)
    assert (receipt["ended"], receipt["policy"], receipt["evidence"]) == ("client_gone", "cancel", "counted")
    assert 0 < Decimal(receipt["charge"]) <= PRICE.of({"input": 1500, "output": 4096})


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
async def test_the_routes_total_time_ends_a_stream_as_length(rig: Rig, protocol: str) -> None:
    """After two seconds the answer ends by itself, its usage and cost included, charged as delivered."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    body = body_of(f"{protocol}-brief", LEAVING | {"chunks": 100, "gap_ms": 100}, stream=True)
    body["stream_options"] = {"include_usage": True}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post(url, json=body, headers=account.headers) as reply,
    ):
        request_id, seen = reply.headers["x-request-id"], (await reply.read()).decode()
    assert seen.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in seen.split("\n\n") if line.startswith("data: {")]
    assert "length" in [choice["finish_reason"] for event in events for choice in event["choices"]]
    rig.shortened.add(request_id)
    rig.delivered[request_id] = sum("word" in json.dumps(event) for event in events)
    receipt = await asyncio.to_thread(account.receipt, request_id)
    assert (receipt["ended"], receipt["evidence"]) == ("complete", "counted")
    assert Decimal(receipt["charge"]) == Decimal(str(events[-1]["usage"]["cost"]))
    assert PRICE.of({"output": rig.delivered[request_id]}) <= Decimal(receipt["charge"]) < WHOLE


@pytest.mark.parametrize("protocol", OPENAI_OR_EACH)
async def test_a_drain_that_dies_with_its_edge_charges_what_was_delivered(rig: Rig, protocol: str) -> None:
    """The client left, then edge was killed: its spool knows what the client had, and the next one charges that."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1")
    request_id = await leave(rig, account, f"{protocol}-drain", LEAVING | {"chunks": 100, "gap_ms": 100})
    await asyncio.sleep(0.5)  # the count is made in a thread and written when it is there
    await asyncio.to_thread(rig.gateway.restart, "edge")
    receipt = await asyncio.to_thread(account.receipt, request_id, 40)
    assert (receipt["ended"], receipt["policy"], receipt["evidence"]) == ("client_gone", "drain", "counted")
    assert PRICE.of({"output": PIECES}) <= Decimal(receipt["charge"]) < WHOLE


def test_the_books_of_all_that_was_left_are_exact(rig: Rig) -> None:
    """The auditor, over every request of this file: comes last."""
    rig.audit()
