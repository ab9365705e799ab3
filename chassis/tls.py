"""Mutual TLS from a folder with `ca.crt`, `tls.crt` and `tls.key`, as a Kubernetes secret is mounted.

Everybody's certificate holds its own name (`edge`, `auth`, `cli` ...) among its DNS names: servers believe callers by
it, and callers servers, whatever address they were found at. The files are read again when they change: the next
connection shows what is there then, running ones go on. What can't be used (half written, the key of another
certificate) is logged and the former kept. `ca.crt` may hold two authorities while one follows the other.
"""

import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path

import grpc
import structlog

from chassis.settings import ServiceSettings, SettingsError


class Certificates:
    """One folder's certificates, for servers and for clients."""

    def __init__(self, folder: Path) -> None:
        """Raises SettingsError when they can't be used."""
        self._paths = [folder / name for name in ("ca.crt", "tls.crt", "tls.key")]
        self._lock = threading.Lock()  # a handshake asks from a thread of gRPC's
        try:
            self._tried = self._stamp()
            self._read()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError([f"TOLLBRIDGE_TLS_DIR: {error}"]) from None

    @classmethod
    def of(cls, settings: ServiceSettings) -> "Certificates | None":
        """What the settings name; None: no TLS."""
        return cls(Path(settings.tls_dir)) if settings.tls_dir else None

    def for_server(self) -> grpc.ServerCredentials:
        """Asks every client for a certificate of our authority."""
        shown = self._server

        def newer() -> grpc.ServerCertificateConfiguration | None:
            # None while nothing has changed: gRPC drops the former one even if another handshake is at work with it.
            nonlocal shown
            self._follow()
            former, shown = shown, self._server
            return None if shown is former else shown

        return grpc.dynamic_ssl_server_credentials(
            shown,
            newer,  # type: ignore[arg-type]  # its documentation allows None
            require_client_authentication=True,
        )

    def for_channel(self) -> grpc.ChannelCredentials:
        """The same object until the files change."""
        self._follow()
        return self._channel

    def for_bus(self) -> ssl.SSLContext:
        """For one connection. Raises ssl.SSLError and OSError."""
        authority, chain, key = self._paths
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(chain, key)
        return context

    def _follow(self) -> None:
        with self._lock:
            try:
                if (stamp := self._stamp()) != self._tried:
                    self._tried = stamp
                    self._read()
            except (OSError, ssl.SSLError) as error:
                structlog.get_logger().error("certificates_not_read", reason=str(error))

    def _stamp(self) -> list[tuple[int, int]]:
        return [(found.st_mtime_ns, found.st_ino) for found in map(os.stat, self._paths)]

    def _read(self) -> None:
        self.for_bus()
        authority, chain, key = [path.read_bytes() for path in self._paths]
        self._channel = grpc.ssl_channel_credentials(authority, key, chain)
        self._server = grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authority)


def names(facts: Mapping[str, object]) -> frozenset[str]:
    """The DNS names that a peer has shown a certificate for, of what gRPC knows of it."""
    shown = facts.get("peer_dns", ())
    return frozenset(name.decode() for name in shown) if isinstance(shown, list | tuple) else frozenset()
