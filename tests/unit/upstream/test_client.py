"""The network seam against real servers on loopback: bytes, timeouts, failures, and what closing means."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from upstream.client import HttpCall, Timeouts, UpstreamClient
from upstream.outcome import AttemptFailed, Outcome, TotalTimeReached

PATIENT = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=20)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def call(url: object, *, body: bytes = b"{}") -> HttpCall:
    headers = {"content-type": "application/json", "authorization": "Bearer sk-canary-12345678"}
    return HttpCall(method="POST", url=str(url), headers=headers, body=body)


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    made = UpstreamClient()
    await made.start()
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", handler)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        yield str(server.make_url("/"))
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def raw(handler: RawHandler) -> AsyncIterator[str]:
    """A server that is in charge of every byte."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n{}")
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


async def test_sends_what_it_is_given_and_nothing_of_its_own(client: UpstreamClient) -> None:
    """Body and headers arrive; encoding is identity; no cookie comes back; redirects are answers."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        assert await request.read() == b'{"a":1}'
        response = web.Response(status=307, body=b"moved", headers={"location": "/elsewhere"})
        response.set_cookie("track", "me")
        return response

    async with served(handler) as url:
        for _ in range(2):
            response = await client.send(call(url, body=b'{"a":1}'), timeouts=PATIENT)
            assert response.status == 307
            assert response.headers["Location"] == "/elsewhere"
            assert await response.read(100) == b"moved"
    assert seen[0].headers["accept-encoding"] == "identity"
    assert seen[0].headers["authorization"] == "Bearer sk-canary-12345678"
    assert "cookie" not in seen[1].headers


async def test_small_writes_leave_at_once(client: UpstreamClient) -> None:
    """TCP_NODELAY is set on connections to providers."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async with served(handler) as url:
        response = await client.send(call(url), timeouts=PATIENT)
        transport = response._response.connection.transport  # type: ignore[attr-defined]  # the socket is what counts
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        response.close()


async def test_proxy_settings_of_the_environment_are_ignored(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials never travel through a proxy that somebody's environment names."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"direct")

    async with served(handler) as url:
        assert await (await client.send(call(url), timeouts=PATIENT)).read(10) == b"direct"


async def test_connections_are_kept(client: UpstreamClient) -> None:
    """An answer that was read to its end gives its connection back."""
    peers: set[object] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=b"x")

    async with served(handler) as url:
        for _ in range(3):
            await (await client.send(call(url), timeouts=PATIENT)).read(10)
    assert len(peers) == 1


async def test_chunks_come_as_they_arrive(client: UpstreamClient) -> None:
    """One item per read, without waiting for more; then the end."""
    go_on = asyncio.Event()

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"5\r\nfirst\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"2\r\nse\r\n4\r\ncond\r\n0\r\n\r\n")
        await writer.drain()

    async with raw(handler) as url:
        response = await client.send(call(url), timeouts=PATIENT)
        chunks = response.chunks()
        assert await anext(chunks) == b"first"
        go_on.set()
        assert b"".join([part async for part in chunks]) == b"second"
        assert [part async for part in chunks] == []
        response.close()


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def head_only(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED)
    await asyncio.Event().wait()


async def one_chunk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED + b"1\r\na\r\n")
    await asyncio.Event().wait()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED)
    while not writer.is_closing():
        writer.write(b"1\r\na\r\n")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("handler", "timeouts", "kind"),
    [
        (silent, Timeouts(connect_s=5, first_byte_s=0.1, idle_s=5, total_s=5), AttemptFailed),
        (head_only, Timeouts(connect_s=5, first_byte_s=0.1, idle_s=5, total_s=5), AttemptFailed),
        (one_chunk, Timeouts(connect_s=5, first_byte_s=5, idle_s=0.1, total_s=5), AttemptFailed),
        (drip, Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=0.2), TotalTimeReached),
    ],
)
async def test_slow_providers_time_out(
    client: UpstreamClient, handler: RawHandler, timeouts: Timeouts, kind: type[AttemptFailed]
) -> None:
    """No head, no body, a pause, a drip: each ends at its own limit."""
    async with raw(handler) as url:
        started = asyncio.get_running_loop().time()
        with pytest.raises(AttemptFailed) as failed:
            await (await client.send(call(url), timeouts=timeouts)).read(1000)
        assert type(failed.value) is kind
        assert failed.value.outcome is Outcome.TIMED_OUT
        assert asyncio.get_running_loop().time() - started < 3


async def test_a_slow_reader_is_no_slow_provider(client: UpstreamClient) -> None:
    """While bytes wait for us, the idle time does not run."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\na\r\n1\r\nb\r\n")
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.write(b"0\r\n\r\n")

    timeouts = Timeouts(connect_s=5, first_byte_s=0.3, idle_s=0.3, total_s=5)
    async with raw(handler) as url:
        response = await client.send(call(url), timeouts=timeouts)
        await asyncio.sleep(0.6)  # what is tested is the passing of time
        assert await response.read(10) == b"ab"


async def test_an_answer_that_broke_before_its_total_time_is_a_broken_one(client: UpstreamClient) -> None:
    """Also where its reader learns of it later, since it was busy with its own client."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\na\r\n")
        await writer.drain()
        writer.transport.abort()

    async with raw(handler) as url:
        timeouts = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=0.3)
        chunks = (await client.send(call(url), timeouts=timeouts)).chunks()
        assert await anext(chunks) == b"a"
        await asyncio.sleep(0.5)  # what is tested is the passing of time
        with pytest.raises(AttemptFailed) as failed:
            await anext(chunks)
    assert failed.value.outcome is Outcome.UNREACHABLE


async def test_cancelling_a_read_loses_nothing_and_closing_closes_the_socket(client: UpstreamClient) -> None:
    """A cancelled relay leaves the stream to its drain; `close` ends it at the provider, at once."""
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"1\r\nb\r\n")
        await reader.read(1)
        gone.set()

    async with raw(handler) as url:
        response = await client.send(call(url), timeouts=PATIENT)
        chunks = response.chunks()
        assert await anext(chunks) == b"a"
        reading = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await anext(chunks) == b"b"
        response.close()
        response.close()
        await asyncio.wait_for(gone.wait(), timeout=20)


async def test_cancelling_a_call_closes_the_socket(client: UpstreamClient) -> None:
    """A call whose caller gave up does not run on."""
    there, gone = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        there.set()
        await reader.read(1)
        gone.set()

    async with raw(handler) as url:
        sending = asyncio.ensure_future(client.send(call(url), timeouts=PATIENT))
        await asyncio.wait_for(there.wait(), timeout=20)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(gone.wait(), timeout=20)


async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)
    await writer.drain()


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", Outcome.UNREACHABLE),
        (b"SSH-2.0-OpenSSH\r\n", Outcome.SERVER_ERROR),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Outcome.UNREACHABLE),
        (CHUNKED + b"5\r\nabc", Outcome.UNREACHABLE),
        (CHUNKED + b"zz\r\nabc\r\n", Outcome.SERVER_ERROR),
        (HEAD + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", Outcome.SERVER_ERROR),
        (HEAD + b"content-length: 2000\r\n\r\n" + b"x" * 2000, Outcome.SERVER_ERROR),
    ],
)
async def test_broken_answers_fail(client: UpstreamClient, data: bytes, outcome: Outcome) -> None:
    """Cut, garbled, encoded and oversized answers are failures with an outcome, without address or secret."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(data, writer)

    async with raw(handler) as url:
        with pytest.raises(AttemptFailed) as failed:
            await (await client.send(call(url), timeouts=PATIENT)).read(1000)
    assert failed.value.outcome is outcome
    assert "127.0.0.1" not in failed.value.message
    assert "canary" not in repr(failed.value)


async def test_unreachable(client: UpstreamClient) -> None:
    """A closed port, a wrong scheme and plain HTTP on a TLS address are unreachable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "ftp://127.0.0.1/", "not a url", ""):
        with pytest.raises(AttemptFailed) as failed:
            await client.send(call(url), timeouts=PATIENT)
        assert failed.value.outcome is Outcome.UNREACHABLE


async def test_certificates_are_verified(client: UpstreamClient, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A server with a certificate of its own making is not spoken to."""
    import datetime
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "pair.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(AttemptFailed) as failed:
        await client.send(call(f"https://127.0.0.1:{port}/"), timeouts=PATIENT)
    assert failed.value.outcome is Outcome.UNREACHABLE
    assert "TLS" in failed.value.message
    server.close()


async def test_a_closed_client_sends_nothing(client: UpstreamClient) -> None:
    """After `close` a call fails at once."""
    await client.close()
    with pytest.raises(AttemptFailed):
        await client.send(call("http://127.0.0.1:1/"), timeouts=PATIENT)
