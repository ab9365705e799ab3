"""nats-py's client as a user of its own: what it tells whom before it knows who that is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import nats.errors
import pytest

from chassis.bus_link import Link, inbox_of

PASSWORD = "s3cret"
INFO = b'INFO {"server_id":"x","version":"2.10.0","auth_required":true,"max_payload":1048576}\r\n'


@contextlib.asynccontextmanager
async def impostor() -> AsyncIterator[tuple[int, bytearray]]:
    """A server on the way that offers no TLS: its port, and all that it is told."""
    heard, gone = bytearray(), asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                heard.extend(line)
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        writer.close()
        gone.set()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard
        async with asyncio.timeout(20):
            await gone.wait()


@pytest.mark.parametrize("user", [f"edge:{PASSWORD}@", ""])
async def test_a_url_of_tls_tells_a_server_without_it_nothing(user: str) -> None:
    """nats-py leaves it to the server whether there is TLS, and would show the password to whoever is in between."""
    async with impostor() as (port, heard):
        link = Link(None)
        with pytest.raises(nats.errors.SecureConnWantedError):
            await link.connect(f"tls://{user}127.0.0.1:{port}", allow_reconnect=False, connect_timeout=20)
        await link.end()
    assert not heard


async def test_a_url_without_tls_needs_none() -> None:
    """As on one machine."""
    async with impostor() as (port, heard):
        link = Link(None)
        await link.connect(f"nats://edge:{PASSWORD}@127.0.0.1:{port}", allow_reconnect=False, connect_timeout=20)
        await link.end()
    assert PASSWORD.encode() in heard


def test_an_inbox_is_named_after_the_user_and_after_no_secret() -> None:
    """A URL with one word before the @ has a token there, which anybody who sees subjects would read."""
    assert inbox_of(f"nats://edge:{PASSWORD}@nats:4222") == "_INBOX.edge"
    assert inbox_of("nats://nats:4222") == "_INBOX"
    assert inbox_of(f"nats://{PASSWORD}@nats:4222") == "_INBOX"
