"""HTTP that is no request, or that two readers could cut in two ways, is refused and its connection closed."""

import asyncio
import json

import pytest

from services.edge.http import protocol
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2

BODY = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "Hello"}]}).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
TE = b"Transfer-Encoding: chunked\r\n"


def post(
    headers: bytes, body: bytes = BODY, *, line: bytes = b"POST /v1/chat/completions HTTP/1.1", host: bytes = b"x"
):
    """A request as bytes."""
    hosts = b"Host: %s\r\n" % host if host else b""
    key = b"Authorization: Bearer %s\r\nConnection: close\r\n" % KEY.encode()
    return line + b"\r\n" + hosts + key + headers + b"\r\n" + body


async def said(world: World, data: bytes) -> bytes:
    """Everything that comes back until the connection is closed."""
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


SMUGGLING = {
    "length and chunks": post(LENGTH + TE, CHUNKED),
    "chunks and length": post(TE + LENGTH, CHUNKED),
    "two lengths": post(LENGTH + LENGTH),
    "two different lengths": post(LENGTH + b"Content-Length: 3\r\n"),
    "a list of lengths": post(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY))),
    "a negative length": post(b"Content-Length: -5\r\n"),
    "a length with a sign": post(b"Content-Length: +%d\r\n" % len(BODY)),
    "a length beyond 64 bits": post(b"Content-Length: 99999999999999999999999\r\n"),
    "another coding": post(b"Transfer-Encoding: xchunked\r\n", CHUNKED),
    "a coding before chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKED),
    "a coding after chunked": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKED),
    "chunked twice": post(TE + TE, CHUNKED),
    "a space before the colon": post(b"Transfer-Encoding : chunked\r\n", CHUNKED),
    "a folded header": post(b"X-A: b\r\n c\r\n" + LENGTH),
    "bare line feeds": post(LENGTH).replace(b"\r\n", b"\n"),
    "a bare carriage return": post(b"X-A: b\rContent-Length: 5\r\n" + LENGTH),
    "a zero byte": post(b"X-A: b\0c\r\n" + LENGTH),
    "a chunk that is none": post(TE, b"zz\r\n" + BODY),
    "a chunk of too many bytes": post(TE, b"fffffffffffffffff\r\n" + BODY),
    "a chunk without its end": post(TE, b"%x\r\n%sXX0\r\n\r\n" % (len(BODY), BODY)),
    "no host": post(LENGTH, host=b""),
    "two hosts": post(b"Host: y\r\n" + LENGTH),
    "a version of the future": post(LENGTH, line=b"POST /v1/chat/completions HTTP/9.9"),
    "no version": b"GET /v1/models\r\n\r\n",
    "a tunnel": post(b"", b"", line=b"CONNECT a:80 HTTP/1.1"),
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "a byte outside ascii in the path": post(b"", b"", line="GET /v1/models/é HTTP/1.1".encode()),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
async def test_what_could_be_read_in_two_ways_is_refused(world: World, data: bytes):
    """With 400, our error's shape, and a closed connection; nothing runs."""
    answer = await said(world, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: " in head
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert not world.truth.decisions


@pytest.mark.parametrize(
    "data",
    [post(LENGTH), post(TE, CHUNKED), post(LENGTH, line=b"POST /v1/chat/completions HTTP/1.0", host=b"")],
    ids=["length", "chunks", "http 1.0"],
)
async def test_plain_requests_pass(world: World, data: bytes):
    """Whichever way their length is told."""
    assert (await said(world, data)).startswith(b"HTTP/1.1 200 ")
    await world.settled()


@pytest.mark.parametrize(
    "headers",
    [b"X-A: %s\r\n" % (b"a" * 200_000), b"".join(b"X-%d: a\r\n" % number for number in range(500))],
    ids=["one large", "many"],
)
async def test_large_heads_are_refused(world: World, headers: bytes):
    """Before they fill our memory."""
    answer = await said(world, post(headers + LENGTH))
    assert answer.startswith(b"HTTP/1.1 413 Content Too Large\r\n"), answer[:200]


async def test_a_head_without_end_is_refused_as_it_comes(world: World):
    """However slowly: its size counts from its first byte."""
    assert (await said(world, b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100_000)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHo"], ids=["nothing", "half a head"])
async def test_who_sends_no_head_in_time_is_left(world: World, sent: bytes, monkeypatch: pytest.MonkeyPatch):
    """A connection costs memory, whoever opens it."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    assert await said(world, sent) == b""


async def test_garbage_after_a_request_is_no_part_of_its_answer(world: World):
    """It ends the connection, and is not answered in the middle of what runs."""
    script = {"chunks": 20, "gap_ms": 20, "output_tokens": 20}
    text = f"#sandbox {json.dumps(script)}"
    body = json.dumps({"model": "fast", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(post(b"Content-Length: %d\r\n" % len(body), body).replace(b"Connection: close\r\n", b""))
    first = await reader.readuntil(b"\n\n")
    writer.write(b"\x00\xff garbage\r\n\r\n")
    rest = await reader.read()
    assert b"HTTP/1.1 400" not in first + rest
    writer.close()
    await world.settled()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def kept_alive(headers: bytes, body: bytes = BODY) -> bytes:
    """A request after which the connection stays."""
    return post(headers, body).replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "head first"])
@pytest.mark.parametrize(("length", "body"), [(LENGTH, BODY), (TE, CHUNKED)], ids=["length", "chunks"])
async def test_an_upgrade_that_is_offered_is_not_taken(world: World, length: bytes, body: bytes, pause: bool):
    """Java's client offers one with each request: its body is a body, and what comes after it the next request."""
    head = kept_alive(UPGRADE + length, b"")
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head if pause else head + body + head)
    if pause:
        await until(lambda: world.truth.authorized == 1)
        writer.write(body + head)
    async with asyncio.timeout(10):
        first = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 "), first
        writer.write(body)
        writer.write(post(b""))
        rest = await reader.read()
    assert rest.count(b"HTTP/1.1 200 ") == 1
    assert len(world.truth.decisions) == 2
    writer.close()
    await world.settled()


async def test_a_body_is_never_taken_for_a_request(world: World):
    """Also not after an upgrade: whoever hands bodies on would hand requests in."""
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await said(world, post(UPGRADE + b"Content-Length: %d\r\n" % len(inner), inner))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_trailer_is_no_header(world: World):
    """It comes after headers were checked, and proxies do not look into it."""
    trailers = b"X-Max-Cost: 0.000000001\r\nX-Api-Key: other\r\n\r\n"
    answer = await said(world, post(TE, CHUNKED[:-2] + trailers))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    await world.settled()


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nX-A: " + b"a" * 400_000, b"0\r\n" + b"X-A: a\r\n" * 50_000, b"5;" + b"a" * 400_000],
    ids=["trailer", "trailers", "extension"],
)
async def test_what_is_around_a_body_is_bounded(world: World, endless: bytes):
    """It counts as no body, and would fill our memory."""
    assert (await said(world, post(TE, CHUNKED[:-5] + endless))).startswith(b"HTTP/1.1 413 ")
    assert not world.truth.decisions


async def test_a_request_whose_body_breaks_has_one_answer(world: World, caplog: pytest.LogCaptureFixture):
    """Who serves it is told that its client has left, and writes nothing more."""
    answer = await said(world, post(TE, b"5\r\nhelloXX"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "Exception in ASGI application" not in caplog.text


async def test_garbage_behind_a_request_is_not_answered_in_its_place(world: World):
    """Its answer would be charged, and another one seen."""
    body = json.dumps(world.body({"first_byte_ms": 300})).encode()
    answer = await said(world, kept_alive(b"Content-Length: %d\r\n" % len(body), body + b"\x00\xff\r\n\r\n"))
    assert answer == b""
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


async def test_who_leaves_with_a_request_in_waiting_has_left_the_one_that_runs(world: World):
    """Requests may be sent ahead; the client is as gone for the first of them."""
    world.truth.on_disconnect = "cancel"
    body = json.dumps(world.body({"chunks": 100, "gap_ms": 50, "output_tokens": 100}, stream=True)).encode()
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(2 * kept_alive(b"Content-Length: %d\r\n" % len(body), body))
    await reader.readuntil(b"data: ")
    writer.transport.abort()
    event = await world.only_event()
    assert (event.ended, event.tokens.output < 50) == (usage_pb2.ENDED_CLIENT_GONE, True)
    await world.settled()


async def test_a_connection_that_says_nothing_more_is_left(world: World, monkeypatch: pytest.MonkeyPatch):
    """Also after an answer that came before the request's end, and after a line end between two requests."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(protocol, "IDLE_TIMEOUT_S", 0.2)
    for sent in (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nh", kept_alive(LENGTH)):
        host, _, port = world.base_url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\r\n")
            await reader.read()
        writer.close()
    await world.settled()


async def test_two_keys_that_differ_are_refused(world: World):
    """Whichever headers they come in: which of them pays must not be a matter of order."""
    for other in (b"Authorization: Bearer other\r\n", b"x-api-key: other\r\n"):
        assert (await said(world, post(other + LENGTH))).startswith(b"HTTP/1.1 400 ")


async def test_a_compressed_body_is_refused(world: World):
    """It would be held by its size, and be another size for the provider."""
    answer = await said(world, post(b"Content-Encoding: gzip\r\n" + LENGTH))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"compressed" in answer
