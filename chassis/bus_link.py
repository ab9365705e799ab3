"""nats-py's client as a user of its own: nobody else may read its inbox, and its certificates are those of now."""

import contextlib
import ssl
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from chassis.tls import Certificates


class Link(Client):
    """With `tls` it shows certificates where the URL begins with `tls:` or the server asks for TLS."""

    def __init__(self, tls: Certificates | None) -> None:
        super().__init__()
        self._certificates = tls

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Asked for at each connection."""
        return self._certificates.for_bus() if self._certificates else super().ssl_context

    async def end(self) -> None:
        """Ends the connection; that there never was one is an assertion to nats-py."""
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError, AssertionError):
            await self.close()


def inbox_of(url: str) -> str:
    """Where the URL's user gets its answers: users may listen there and at no other's (`cli/bus_users.py`)."""
    user = urlsplit(url).username
    return f"_INBOX.{user}" if user else "_INBOX"
