"""HTTP that is no request, or that two readers could cut in two ways, is refused and its connection closed."""

import asyncio
import json

import pytest

from services.edge import http_protocol
from tests.unit.edge.world import KEY, World

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
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.1)
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


async def test_two_keys_that_differ_are_refused(world: World):
    """Whichever headers they come in: which of them pays must not be a matter of order."""
    for other in (b"Authorization: Bearer other\r\n", b"x-api-key: other\r\n"):
        assert (await said(world, post(other + LENGTH))).startswith(b"HTTP/1.1 400 ")


async def test_a_compressed_body_is_refused(world: World):
    """It would be held by its size, and be another size for the provider."""
    answer = await said(world, post(b"Content-Encoding: gzip\r\n" + LENGTH))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"compressed" in answer
