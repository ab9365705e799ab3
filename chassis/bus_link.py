"""nats-py's client as a user of its own: nobody else may read its inbox, and its certificates are those of now."""

import contextlib
import ssl
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from chassis.tls import Certificates


class Link(Client):
    """Shows certificates where the server asks for TLS. By a `tls:` URL, one that does not is told nothing."""

    def __init__(self, tls: Certificates | None) -> None:
        super().__init__()
        self._certificates = tls

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Asked for at each connection."""
        return self._certificates.for_bus() if self._certificates else super().ssl_context

    def _connect_command(self) -> bytes:
        """Who we are, in the words of CONNECT: nats-py would tell it in clear wherever the server says so."""
        if (to := self._current_server) and to.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    async def end(self) -> None:
        """Ends the connection; that there never was one is an assertion to nats-py."""
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError, AssertionError):
            await self.close()


def inbox_of(url: str) -> str:
    """Where the URL's user gets its answers: users may listen there and at no other's (`cli/bus_users.py`)."""
    # One word before the @ is a token, and a secret.
    return f"_INBOX.{parts.username}" if (parts := urlsplit(url)).password else "_INBOX"
