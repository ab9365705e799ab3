"""A certificate authority for tests, and folders as a service is given them."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs what it is asked to."""

    def __init__(self, name: str = "test") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def folder(self, path: Path, *names: str, trusting: bytes = b"") -> Path:
        """Fills a folder for one who is called so on loopback, and trusts this authority or another."""
        path.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        known = [*map(x509.DNSName, names), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anybody")])
        signed = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(known), False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (path / "ca.crt").write_bytes(trusting or self.certificate)
        (path / "tls.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (path / "tls.key").write_bytes(private)
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + DAY)
        )
