"""Asks a process over HTTP whether it is ready: one short request, no HTTP library in the supervisor."""

import asyncio

TIMEOUT_S = 1.0


async def http_is_ready(address: str, path: str = "/readyz") -> bool:
    """Tells whether `GET path` at `host:port` answers 200."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return line.split(b" ")[1:2] == [b"200"]
