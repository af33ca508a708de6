"""Who keeps the doors: one object that knows all of them, for those who serve."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from server.doors import certificates
from server.doors.audit import Audit
from server.doors.certificates import Certificates
from server.doors.rates import Allowance, Rates
from server.doors.tokens import Tokens
from server.doors.uploads import Uploads
from server.doors.visit import Visit
from server.settings.doors import DoorSettings

_log = structlog.get_logger(__name__)

# Anybody may ask: a probe has no token, and the answer tells nothing but that.
OPEN = "grpc.health.v1.Health"


class Keeper:
    """Certificates, tokens, rates, uploads and the audit log of one server. What is not configured is None."""

    def __init__(self, settings: DoorSettings) -> None:
        """Read the files.

        Raises:
            CredentialsError: expected; certificates or tokens cannot be used.
            StartupError: expected; the audit log cannot be opened.
        """
        self._reload_seconds = settings.reload_seconds
        usual = Allowance(settings.rate_limit, settings.rate_burst)
        self.certificates: Certificates | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certificates = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        self.tokens = None if settings.tokens is None else Tokens(settings.tokens, usual)
        if self.tokens is not None and self.certificates is None:
            _log.warning(
                "tokens without TLS",
                detail="Whoever can read the network can read the tokens. Set GLIMPSE_TLS_CERTIFICATE and _KEY, or let "
                "a proxy on this machine speak TLS.",
            )
        # A token may bring a limit of its own where there is none for the rest.
        self.rates = Rates(usual) if usual.rate or self.tokens is not None else None
        self.uploads = Uploads(settings.max_uploads, settings.upload_seconds)
        self.audit = None if settings.audit_log is None else Audit(settings.audit_log)
        self._asks = self.tokens is not None or (self.certificates is not None and self.certificates.mutual)

    def identify(self, visit: Visit, service: str, authorization: Sequence[str], context: Any) -> None:
        """Find out who comes, before anything is read of what they send: the token's holder, else the certificate's.

        Raises:
            UnauthenticatedError: expected; a token is wanted, and there is none that is good.
        """
        if not self._asks or service == OPEN:
            return
        if self.tokens is not None:
            holder = self.tokens.holder(authorization)
            visit.identity, visit.allowance = holder.identity, holder.allowance
        else:
            shown: Mapping[str, Sequence[bytes]] = context.auth_context()
            visit.identity = certificates.identity(shown)

    def take(self, visit: Visit, images: int, *, patience: float = 0.0) -> float:
        """Take `images` from what the visitor may send; returns the seconds to wait before they are worked on.

        Raises:
            OverloadedError, InvalidRequestError: expected; see `Rates.take`.
        """
        if self.rates is None:
            return 0.0
        return self.rates.take(visit.who, images, visit.allowance, worth=visit.counted, patience=patience)

    def give_back(self, visit: Visit, images: int) -> None:
        """Put `images` back whose visitor has not waited for their turn."""
        if self.rates is not None:
            self.rates.give_back(visit.who, images, visit.allowance, worth=visit.counted)

    @property
    def stale(self) -> bool:
        """Whether a file of certificates or tokens has changed into something that cannot be used."""
        return any(each is not None and each.stale for each in (self.certificates, self.tokens))

    async def keep_fresh(self) -> None:
        """Look at the files again and again, until cancelled."""
        sources = [each for each in (self.certificates, self.tokens) if each is not None]
        while sources:
            await asyncio.sleep(self._reload_seconds)
            for source in sources:
                try:
                    await asyncio.to_thread(source.look)
                except Exception:  # noqa: BLE001 - what is in force stays so, whatever a file holds
                    _log.exception("a defect of the service")

    def close(self) -> None:
        """Write what is left to write."""
        if self.audit is not None:
            self.audit.close()
