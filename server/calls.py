"""The life of one call, whatever transport it came by: who calls, its metrics, its trace, its log and audit lines.

A transport reads what the call's metadata says, begins the call, has its caller identified, and ends it with the name
of a gRPC status, whichever way it answers. Only what its own protocol knows remains for the transport itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from glimpse.server.access.call_context import CallContext, current_call
from glimpse.server.access.call_metadata import read_metadata
from glimpse.server.access.control import AccessControl
from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.errors import ServiceError
from glimpse.server.fields import Names
from glimpse.server.floods.guard import Guard
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.sampling import LeftOut, Sampled
from glimpse.server.tracing import Tracing

_log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # the same one, for its level

OK, CANCELLED = "OK", "CANCELLED"
# Statuses that a caller cannot bring about at will: a defect of the service is logged each time.
_DEFECTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
_LEFT = {CANCELLED, "DEADLINE_EXCEEDED"}  # of a watch: its caller has seen enough

Metadata = Iterable[tuple[str, str | bytes]]
_NONE: Names = {}


class Calls:
    """What all calls of one port have in common. Lives on the event loop; not for other threads."""

    def __init__(
        self,
        metrics: Metrics,
        access: AccessControl,
        tracing: Tracing | None = None,
        *,
        guard: Guard | None = None,
        log_calls: bool = False,
    ) -> None:
        """Record into `metrics` and, where there are traces, into `tracing`; let in whom `access` knows.

        `guard` is told how each call ended. `log_calls`: write a line at level info for calls that succeeded, too.
        """
        self.metrics = metrics
        self.access = access
        self.guard = Guard() if guard is None else guard
        self.tracing = tracing
        self.log_calls = log_calls
        # Of unknown and of identified callers: neither take the other's lines.
        self.sampled = Sampled(_tell_left_out), Sampled(_tell_left_out)

    def method(
        self,
        kind: str,
        service: str,
        name: str,
        *,
        classifies: bool = False,
        probe: bool = False,
        names: Names = _NONE,
    ) -> Method:
        """What all calls of a method have in common.

        Args:
            kind: `unary`, `client_stream`, `server_stream` or `bidi_stream`, for metrics.
            service: its full name.
            name: of the method.
            classifies: whether it classifies images.
            probe: whether it is a health check: anybody may call it, and it is neither traced, logged nor audited.
            names: what its callers call the fields that errors are about.
        """
        return Method(self, kind, service, name, classifies=classifies, probe=probe, names=names)

    def unknown_method(self, metadata: Metadata, peer: str, port: int = 0) -> None:
        """A call has come, and been refused, for a method that does not exist; `port` as in `CallContext`."""
        call, _ = read_metadata(metadata, "", peer, self.access.proxies)
        traffic = self.guard.began(call.peer, call.address, port)
        self.guard.ended(traffic, "UNIMPLEMENTED", received=0, gated=False, seconds=0.0)


class Method:
    """Begins and ends the calls of one method."""

    def __init__(
        self, calls: Calls, kind: str, service: str, name: str, *, classifies: bool, probe: bool, names: Names
    ) -> None:
        """Made by `Calls.method`."""
        self._name, self._names = f"{service}/{name}", names
        self._classifies, self._probe = classifies, probe
        self._counts = calls.metrics.rpcs.of(kind, service, name)
        self._metrics, self._access, self._guard = calls.metrics, calls.access, calls.guard
        self._tracing = None if probe else calls.tracing
        self._sampled, self._log_calls = calls.sampled, calls.log_calls

    def read(self, metadata: Metadata, peer: str, port: int = 0) -> tuple[CallContext, list[str]]:
        """What is known of a call before it begins, and whatever its metadata has for `authorization`.

        `peer` and `port` as in `CallContext`.
        """
        call, authorization = read_metadata(metadata, self._name, peer, self._access.proxies)
        call.port = port
        return call, authorization

    def floods(self, call: CallContext) -> bool:
        """Whether a call is one of a flood: it is to be refused before anything is read, counted, traced or logged."""
        return self._guard.refuses and self._guard.refused(call.peer, call.address, call.port) is not None

    def begin(self, call: CallContext, metadata: Metadata) -> None:
        """Begin a call; `end` has to follow."""
        call.traffic = self._guard.began(call.peer, call.address, call.port)
        current_call.set(call)
        structlog.contextvars.bind_contextvars(request_id=call.request_id, rpc=call.method)
        if self._tracing is not None:
            call.trace = self._tracing.call(call.method, metadata, call.peer)
            if call.trace is not None:
                structlog.contextvars.bind_contextvars(trace_id=call.trace.trace_id)
        self._counts.began()

    def identify(
        self, call: CallContext, authorization: Sequence[str], certificate: Callable[[], PeerCertificate]
    ) -> None:
        """Find out who calls, unless anybody may.

        Raises:
            ServiceError: expected; see `AccessControl.identify`.
        """
        if not self._probe:
            self._access.identify(call, authorization, certificate)

    def field(self, error: ServiceError) -> str:
        """What an error is about, as callers of this method call it."""
        return self._names.get(error.field, error.field)

    async def refused(self, call: CallContext, error: ServiceError) -> None:
        """Count a call that is refused as a whole; returns when its caller may be told."""
        self._metrics.request_rejected(error.reason, call.served)
        if call.suspect:
            await self._access.delay_refusal()

    def end(self, call: CallContext, code: str, reason: str, details: str | None = None) -> None:
        """End a call that has begun.

        Args:
            call: the call.
            code: name of the gRPC status.
            reason: of the error, for programs; "": there is none.
            details: of the error, for people.
        """
        self._access.leave(call)
        seconds, trace = time.monotonic() - call.begun, call.trace
        self._counts.ended(code, seconds, None if trace is None else trace.exemplar)
        self._guard.ended(call.traffic, code, received=call.received, gated=self._classifies, seconds=seconds)
        self._log(call, code, reason, seconds, details)
        if trace is not None:
            trace.end(code, reason=reason, request_id=call.request_id, images=call.images, model=call.model)
        if self._access.audit is not None and not self._probe:
            self._access.audit.write(call, code=code, reason=reason, seconds=seconds)

    def _log(self, call: CallContext, code: str, reason: str, seconds: float, details: str | None) -> None:
        # A line for each call would cost more than a small network does. Errors are logged, but of many alike from one
        # caller a few. Health checks and watches are no news, however they end.
        usual, quiet = code == OK or (self._probe and code in _LEFT), False
        more: dict[str, Any] = {}
        left_out = (
            0 if usual or code in _DEFECTS else self._sampled[bool(call.identity)].left_out(call.who, code, reason)
        )
        if left_out:
            more = {"left_out": left_out}
        elif usual or left_out is None:
            if self._log_calls and code == OK and not self._probe:
                more = {"model": call.model, "images": call.images, "bytes": call.bytes}
            elif not _level.isEnabledFor(logging.DEBUG):  # structlog finds that out after all the work
                return
            else:
                quiet = True
        log = _log.debug if quiet else _log.info
        log(
            "rpc",
            code=code,
            reason=reason or None,
            seconds=round(seconds, 6),
            peer=call.peer,
            details=details,
            **more,
        )


def _tell_left_out(left_out: LeftOut) -> None:
    _log.info(
        "rpcs left out of the log",
        code=left_out.code or None,
        reason=left_out.reason or None,
        who=left_out.who or None,
        left_out=left_out.lines,
    )
