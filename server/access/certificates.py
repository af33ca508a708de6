"""TLS: the server's certificate and, where callers must show one, whom to believe about theirs."""

from __future__ import annotations

import math
import ssl
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glimpse.server.access import x509
from glimpse.server.access.watched_file import WatchedFile
from glimpse.server.processes.startup import CredentialsError


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """What the files hold, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes | None  # None: callers need no certificate
    trusted: frozenset[Hashable]  # the same authorities, as far as it matters whether they are the same
    context: ssl.SSLContext = field(repr=False, compare=False)  # the same, for Python's own TLS


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
        self._source = WatchedFile("certificates", files, self._check)
        self._trusted = self._source.value.trusted

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
        before, self._trusted = self._trusted, self._source.value.trusted
        return not before <= self._trusted

    @property
    def latest(self) -> KeyFiles:
        """What the files hold now; the same object until they change."""
        return self._source.value

    def _check(self, contents: Sequence[bytes]) -> KeyFiles:
        certificate, key, *authorities = contents
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
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
            return KeyFiles(certificate, key, None, frozenset(), context)
        try:
            context.load_verify_locations(cadata=authorities[0].decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise CredentialsError(
                f"{self._authorities} cannot be used as certificate authorities of callers: {_why(error)}. Provide "
                "their certificates as PEM."
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
        return KeyFiles(certificate, key, authorities[0], _trusted(authorities[0]), context)


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
