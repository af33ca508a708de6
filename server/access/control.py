"""All parts of access control in one object, for the code that serves calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from glimpse.server.access.audit import Audit
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.certificates import Certificates
from glimpse.server.access.certified import CertifiedConnections
from glimpse.server.access.closing import Closing
from glimpse.server.access.forwarded import Proxies
from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.access.rates import Allowance, Rates
from glimpse.server.access.receiving import Receiving
from glimpse.server.access.revocation import OpenStreams
from glimpse.server.access.tokens import Tokens
from glimpse.server.access.unauthenticated import REMEMBERED, Budget, UnauthenticatedCalls
from glimpse.server.access.unread import Unread
from glimpse.server.access.uploads import Uploads
from glimpse.server.errors import OverloadedError, PermissionDeniedError, Reason, UnauthenticatedError, shown
from glimpse.server.settings.access import AccessSettings

_log = structlog.get_logger(__name__)

# Calls a second of one address that show no good token, and at once: a client that was given a wrong one fails once,
# not in a loop, and a whole fleet of them can still see why.
_FAILURES = Allowance(20.0, 200)
ANYBODY = "*"  # in GLIMPSE_ADMIN
_DELAY = 1.0  # seconds that one above that waits for its refusal
_MOST_DELAYED = 1024  # of them at once, 25 KB each; more are refused without waiting
# Reflection and descriptions of models. A client asks for a description once, so the burst is for a fleet that starts
# behind one address; a tool keeps a stream of reflection open for as long as it describes a service.
_DESCRIPTIONS = Budget("descriptions", calls=1024, streams=64, streams_each=16, allowance=Allowance(40.0, 500))


def _checks(settings: AccessSettings) -> Budget:
    """Of health checks on one port.

    A client watches a server once a connection. So one address may have as many watches as there may be connections,
    and all together twice as many, of 22 KB each: a thousand clients behind one address are served, and memory is
    bounded. Where all are taken, whoever has most gives one up.
    """
    most = settings.max_connections
    return Budget("health checks", calls=1024, streams=2 * most, streams_each=most, allowance=Allowance(200.0, 2000))


class AccessControl:
    """Certificates, tokens, rates, uploads and the audit log of one server. What is not configured is None."""

    def __init__(self, settings: AccessSettings) -> None:
        """Read the files.

        Raises:
            CredentialsError: expected; certificates or tokens cannot be used.
            StartupError: expected; the audit log cannot be opened.
        """
        self._reload_seconds = settings.reload_seconds
        self._admin, self._feedback = settings.admin, settings.feedback
        usual = Allowance(settings.rate_limit, settings.rate_burst)
        self.certificates: Certificates | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certificates = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        self.tokens = None if settings.tokens is None else Tokens(settings.tokens, usual)
        if self.tokens is not None and self.certificates is None:
            _log.warning(
                "tokens without TLS",
                detail="Anybody who can read the network traffic can read the tokens. Set GLIMPSE_TLS_CERTIFICATE and "
                "GLIMPSE_TLS_KEY, or use a proxy on this machine that ends TLS.",
            )
        mutual = self.certificates is not None and self.certificates.mutual
        if self.tokens is None and not mutual:
            for what, setting, named in (
                ("nobody may manage models", "GLIMPSE_ADMIN", self._admin),
                ("nobody may give feedback", "GLIMPSE_FEEDBACK", self._feedback),
            ):
                if named and ANYBODY not in named:
                    _log.warning(
                        what,
                        detail=f"{setting} names identities, but without GLIMPSE_TOKENS and GLIMPSE_TLS_CLIENT_CA "
                        "callers have none.",
                    )
        # A token may bring a limit of its own where there is none for the rest.
        self.rates = Rates(usual) if usual.rate or self.tokens is not None else None
        self.receiving = Receiving(settings.max_receiving_bytes, settings.max_message_bytes, settings.upload_seconds)
        self.uploads = Uploads(settings.max_uploads, settings.upload_seconds, self.receiving)
        # Health checks have a budget on each port, so that the port for probes answers whatever comes to the other.
        self.checks, self.probes, self.descriptions = (
            UnauthenticatedCalls(budget) for budget in (_checks(settings), _checks(settings), _DESCRIPTIONS)
        )
        self.audit = None if settings.audit_log is None else Audit(settings.audit_log)
        self.proxies = Proxies(settings.trusted_proxies) if settings.trusted_proxies else None
        self.streams = OpenStreams()
        self.closing = Closing()
        self.unread = Unread(self.closing)
        self.connections = CertifiedConnections(settings.upload_seconds, self.audit) if mutual else None
        self._delayed = 0
        self._refused = Rates(_FAILURES, what="calls without a good token", remembered=REMEMBERED)

    def identify(
        self, call: CallContext, authorization: Sequence[str], certificate: Callable[[], PeerCertificate]
    ) -> None:
        """Find out who calls, before anything is read of what they send: the token's holder, else the certificate's.

        Args:
            call: is given the identity and what it may send.
            authorization: the values of `authorization` in the call's metadata.
            certificate: returns what the caller's TLS certificate says; only asked where callers must show one.

        Raises:
            UnauthenticatedError: expected; a token is wanted, and there is none that is good.
            OverloadedError: expected; the same, where many such calls come from one address.
            UnavailableError: expected; the connection is being closed, see `CertifiedConnections`.
        """
        if self.tokens is not None:
            try:
                holder, call.token = self.tokens.authenticate(authorization)
            except UnauthenticatedError as error:
                # Whoever has a good token is let in, whatever else comes from the same address.
                try:
                    self._refused.take(call.who, 1)
                except OverloadedError as limited:
                    call.suspect = True
                    raise OverloadedError(
                        limited.reason,
                        f"{error.message} There are too many such calls from your address: {limited.message}",
                        retry_after=limited.retry_after,
                    ) from None
                raise
            call.identity, call.allowance = holder.identity, holder.allowance
        if self.connections is not None:
            shown = certificate()
            call.identity = call.identity or shown.identity
            self.connections.enter(call, shown)

    def is_admin(self, call: CallContext) -> bool:
        """Whether a caller may manage models: GLIMPSE_ADMIN names its identity, or anybody."""
        return ANYBODY in self._admin or bool(call.identity and call.identity in self._admin)

    def check_admin(self, call: CallContext) -> None:
        """Refuse a caller who may not manage models.

        Raises:
            PermissionDeniedError: expected; GLIMPSE_ADMIN does not name the caller's identity.
        """
        if self.is_admin(call):
            return
        who = f"{shown(call.identity)} is not among them" if call.identity else "you have shown no identity"
        raise PermissionDeniedError(
            Reason.NOT_PERMITTED,
            f"Only callers whom GLIMPSE_ADMIN of this server names may manage models, and {who}. Ask the operator.",
        )

    def check_feedback(self, call: CallContext) -> None:
        """Refuse a caller who may not tell the true class of images.

        Raises:
            PermissionDeniedError: expected; GLIMPSE_FEEDBACK does not name the caller's identity.
        """
        if ANYBODY in self._feedback or (call.identity and call.identity in self._feedback):
            return
        who = f"{shown(call.identity)} is not among them" if call.identity else "you have shown no identity"
        raise PermissionDeniedError(
            Reason.NOT_PERMITTED,
            f"Only callers whom GLIMPSE_FEEDBACK of this server names may give feedback, and {who}. Ask the operator.",
        )

    async def delay_refusal(self) -> None:
        """Let a suspect wait for the refusal: one who tries again as soon as it is there is slowed down by that."""
        if self._delayed < _MOST_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(_DELAY)
            finally:
                self._delayed -= 1

    def leave(self, call: CallContext) -> None:
        """A call is over, whether it was let in or not."""
        if self.connections is not None:
            self.connections.leave(call)

    def take(self, call: CallContext, images: int, *, patience: float = 0.0) -> float:
        """Take `images` from what the caller may send; returns the seconds to wait before they are worked on.

        Raises:
            OverloadedError, InvalidRequestError: expected; see `Rates.take`.
        """
        if self.rates is None:
            return 0.0
        return self.rates.take(call.who, images, call.allowance, worth=call.counted, patience=patience)

    def give_back(self, call: CallContext, images: int) -> None:
        """Put `images` back whose caller has not waited for their turn."""
        if self.rates is not None:
            self.rates.give_back(call.who, images, call.allowance, worth=call.counted)

    def all_rates(self) -> dict[str, Rates]:
        """All buckets of callers, by name: what the processes of one server share."""
        rates = {
            "checks": self.checks.rates,
            "descriptions": self.descriptions.rates,
            "probes": self.probes.rates,
            "refused": self._refused,
        }
        return rates if self.rates is None else {"images": self.rates, **rates}

    @property
    def stale(self) -> bool:
        """Whether a file of certificates or tokens has changed into something that cannot be used."""
        return any(each is not None and each.stale for each in (self.certificates, self.tokens))

    async def keep_fresh(self) -> None:
        """Look again and again, until cancelled, at the files and at those whose credentials have been revoked."""
        sources = [each for each in (self.certificates, self.tokens) if each is not None]
        while sources:
            await asyncio.sleep(self._reload_seconds)
            for source in sources:
                try:
                    await asyncio.to_thread(source.look)
                except Exception:  # noqa: BLE001 - what is in force stays so, whatever a file holds
                    _log.exception("a defect of the service")
            if self.connections is not None and self.certificates is not None:
                await _later_without_files(self.connections.look(distrusts=self.certificates.distrusts()))
            self.streams.look()
            if self.connections is not None:
                await _later_without_files(self.connections.close_idle())

    def close(self) -> None:
        """Write what is left to write."""
        if self.audit is not None:
            self.audit.close()


async def _later_without_files(looking: Awaitable[None]) -> None:
    """Await a look at connections; where the process can open no more files, the next look makes up for it.

    Streams are looked at all the same, and as often: who fills the server with connections keeps no credential alive.
    """
    try:
        await looking
    except OSError as error:
        _log.warning("connections not looked at", detail=f"{error.strerror}. They will be checked again soon.")
