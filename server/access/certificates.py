"""TLS: the server's certificate and, where callers must show one, whom to believe about theirs."""

from __future__ import annotations

import math
import ssl
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from glimpse.server.access import x509
from glimpse.server.access.watched_file import WatchedFile
from glimpse.server.startup import CredentialsError

# Where gRPC puts what a caller's certificate says, the most telling first: a SPIFFE or other URI, a host, a plain name.
_NAMES = ("peer_uri", "peer_dns", "x509_common_name", "x509_subject")


class _Latest(NamedTuple):
    """What the files say."""

    configuration: grpc.ServerCertificateConfiguration
    authorities: frozenset[Hashable]


class Certificates:
    """A certificate, its key and the authorities, as they lie in their files now."""

    def __init__(self, certificate: Path, key: Path, authorities: Path | None) -> None:
        """Read them. With `authorities`, callers must show a certificate of one of them.

        Raises:
            CredentialsError: expected; they cannot be read, or do not belong together.
        """
        self.mutual = authorities is not None
        self._certificate, self._key, self._authorities = certificate, key, authorities
        files = [certificate, key, *([authorities] if authorities is not None else [])]
        self._source = WatchedFile("certificates", files, self._configuration)
        self._trusted = self._source.value.authorities

    @property
    def stale(self) -> bool:
        """Whether the files have changed into something that cannot be used."""
        return self._source.stale

    def look(self) -> None:
        """Take what has changed in the files, if it can be used: for new connections. Of old ones see `distrusts`."""
        self._source.look()

    def distrusts(self) -> bool:
        """Whether an authority that was trusted when this was asked before no longer is.

        An authority is its name, its key and what it may sign: a certificate of it that only lasts longer is no other.
        """
        before, self._trusted = self._trusted, self._source.value.authorities
        return not before <= self._trusted

    def credentials(self) -> grpc.ServerCredentials:
        """What a port needs to speak TLS. For one server: each is told of a change once."""
        given = self._source.value

        def newer() -> grpc.ServerCertificateConfiguration | None:
            """What gRPC asks before each handshake; None where nothing has changed: it starts anew with the rest."""
            nonlocal given
            latest = self._source.value
            if latest is given:
                return None
            given = latest
            return latest.configuration

        changed: Any = newer  # it may return None, which the types of gRPC leave out
        return grpc.dynamic_ssl_server_credentials(given.configuration, changed, self.mutual)

    def _configuration(self, contents: Sequence[bytes]) -> _Latest:
        certificate, key, *authorities = contents
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A password that is never right: without one, a key that has one would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
            # What was checked was read from the files once more.
            same = (certificate, key) == (self._certificate.read_bytes(), self._key.read_bytes())
        except (ssl.SSLError, OSError, ValueError) as error:
            raise CredentialsError(
                f"{self._certificate} and {self._key} cannot be used as certificate and key: {_why(error)}. Provide a "
                "PEM chain that begins with the server's certificate, and its private key as PEM without a password."
            ) from None
        if not same:
            raise CredentialsError(f"{self._certificate} or {self._key} changed while they were read.")
        if not authorities:
            return _Latest(grpc.ssl_server_certificate_configuration([(key, certificate)]), frozenset())
        try:
            context.load_verify_locations(cadata=authorities[0].decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise CredentialsError(
                f"{self._authorities} cannot be used as certificate authorities of callers: {_why(error)}. Provide "
                "their certificates as PEM."
            ) from None
        configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], authorities[0])
        return _Latest(configuration, _trusted(authorities[0]))


def identity(shown: Mapping[str, Sequence[bytes]]) -> str:
    """Whom a caller's certificate names: its first URI, else its first host name, else its common name.

    Args:
        shown: `context.auth_context()` of a call.
    """
    for name in _NAMES:
        for value in shown.get(name, ()):
            if value:
                return value.decode(errors="replace")
    return ""


def expires(pem: bytes) -> float:
    """When the first certificate of a PEM text expires, in seconds since 1970; infinite where it cannot be read.

    It has been verified by then, so that what cannot be read here is a gap of ours and no reason to refuse a caller.
    """
    try:
        return x509.certificates(pem.decode("ascii", "replace"))[0].not_after
    except (ValueError, IndexError):
        return math.inf


def _trusted(pem: bytes) -> frozenset[Hashable]:
    """The authorities of a PEM text; all as one where one cannot be read, so that any change counts."""
    try:
        return frozenset(each[1:] for each in x509.certificates(pem.decode("ascii", "replace")))
    except ValueError:
        return frozenset({pem})


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return {
            "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
            "NO_CERTIFICATE_OR_CRL_FOUND": "it contains no certificate",
        }.get(error.reason, error.reason or "they are not PEM, or one of them is incomplete")
    return str(error)
