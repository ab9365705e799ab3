"""The health port: what it answers, and how little it takes."""

import asyncio

from prometheus_client import CollectorRegistry, Counter

from chassis.health import HealthServer


async def http(address: str, head: bytes) -> tuple[bytes, bytes]:
    """Status line and body of the answer; both empty when the connection is closed without one."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    try:
        raw = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        raw = b""
    writer.close()
    first, _, rest = raw.partition(b"\r\n")
    return first, rest.partition(b"\r\n\r\n")[2]


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def test_it_answers_liveness_readiness_and_metrics() -> None:
    """Readiness gives its reason, metrics come from the registry that was passed in."""
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    reasons: list[str | None] = ["draining"]
    server = HealthServer(bind="127.0.0.1:0", registry=registry, ready=lambda: reasons[0])
    address = await server.start()
    assert await http(address, get("/livez")) == (b"HTTP/1.1 200 OK", b"ok\n")
    assert await http(address, get("/readyz")) == (b"HTTP/1.1 503 Service Unavailable", b"draining\n")
    reasons[0] = None
    assert (await http(address, get("/readyz?verbose")))[0] == b"HTTP/1.1 200 OK"
    status, body = await http(address, get("/metrics"))
    assert status == b"HTTP/1.1 200 OK"
    assert b"things_total 3.0" in body
    await server.stop()


async def test_it_refuses_what_it_does_not_know() -> None:
    """GET of three paths is all there is."""
    server = HealthServer(bind="127.0.0.1:0", registry=CollectorRegistry(), ready=lambda: None)
    address = await server.start()
    assert (await http(address, get("/")))[0] == b"HTTP/1.1 404 Not Found"
    assert (await http(address, get("/livez", "POST")))[0] == b"HTTP/1.1 405 Method Not Allowed"
    assert (await http(address, b"\r\n\r\n"))[0] == b"HTTP/1.1 400 Bad Request"
    await server.stop()


async def test_an_endless_head_gets_no_answer() -> None:
    """Reading is bounded, and the server goes on."""
    server = HealthServer(bind="127.0.0.1:0", registry=CollectorRegistry(), ready=lambda: None)
    address = await server.start()
    assert await http(address, b"GET /livez HTTP/1.1\r\nx: " + b"a" * 100_000) == (b"", b"")
    assert (await http(address, get("/livez")))[0] == b"HTTP/1.1 200 OK"
    await server.stop()
