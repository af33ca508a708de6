"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `tls.crt` and `tls.key`, as Kubernetes calls them, and return their paths."""
        folder.mkdir(exist_ok=True)
        (folder / "tls.crt").write_bytes(self.certificate)
        (folder / "tls.key").write_bytes(self.key)
        return folder / "tls.crt", folder / "tls.key"


class Authority:
    """Signs what it is asked to."""

    def __init__(self, name: str = "an authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._serial = 0
        self.pem = self.renewed()

    def renewed(self, lasts: timedelta = timedelta(days=1)) -> bytes:
        """Another certificate of the authority itself, with its name and its key."""
        certificate = self._builder(self._name, self._key.public_key(), lasts).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        return certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def server(self, name: str = "a server") -> Pair:
        """For a server on this machine."""
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issue(name, hosts, timedelta(days=1))

    def client(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = (),
        uri: str = "",
        expired: bool = False,
        lasts: timedelta = timedelta(days=1),
    ) -> Pair:
        """For a caller; good for as long as it `lasts` from now on, if it has not `expired`."""
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        return self._issue(name, names, timedelta(days=-1) if expired else lasts)

    def _issue(self, name: str, alternatives: list[x509.GeneralName], lasts: timedelta) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_named(name), key.public_key(), lasts)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Pair(
            builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta) -> x509.CertificateBuilder:
        self._serial += 1
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(self._serial)
            .not_valid_before(now - timedelta(days=3))
            .not_valid_after(now + lasts)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
