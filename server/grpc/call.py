"""What surrounds one gRPC call: it begins, and ends with the status that follows from how its handler ended."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.call_metadata import REQUEST_ID_KEY
from glimpse.server.access.control import AccessControl
from glimpse.server.access.peer_certificate import PeerCertificate
from glimpse.server.calls import CANCELLED, OK, Method
from glimpse.server.domain import Caller
from glimpse.server.errors import ServiceError, defect
from glimpse.server.grpc import status
from glimpse.server.grpc.aborting import abort
from glimpse.server.grpc.call_ends import cannot_send, content_refused, ended_by_peer, malformed, only, status_of
from glimpse.server.grpc.tls import peer_certificate

_log = structlog.get_logger(__name__)

_MOMENT = 0.1  # seconds
# A message above the limit is refused when its first bytes are there, with which it says how large it is, and a caller
# sends them with the call itself. Whoever leaves amid a message has been sending for a while: gRPC shows both alike.
_AT_ONCE = 0.02  # seconds from the beginning of the call
_REFUSED_BY_GRPC = "gRPC refused the message because it exceeds GLIMPSE_MAX_MESSAGE_BYTES."
_FAREWELL = 1.0  # seconds that a caller has to take the word that the server ends the call
_FLOODED = "Too many calls from your address had no message, were reset, or were refused. Send fewer of them."


class GrpcCall:
    """One call, while the block runs. No generator: that would cost each call some microseconds."""

    __slots__ = ("_access", "_call", "_code", "_context", "_method", "_reason", "_refused_by_grpc")

    _call: CallContext

    def __init__(self, method: Method, access: AccessControl, context: Any) -> None:
        self._method, self._access, self._context = method, access, context
        self._code, self._reason = OK, ""
        self._refused_by_grpc = False  # its message was above the limit, as far as can be known

    async def __aenter__(self) -> CallContext:
        method, context = self._method, self._context
        metadata = context.invocation_metadata() or ()
        call, authorization = method.read(metadata, context.peer())
        if method.floods(call):
            await abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, _FLOODED)
        self._call = call
        method.begin(call, metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        try:
            method.identify(call, authorization, self._certificate)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return call

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        call = self._call
        try:
            if error is not None:
                await self._failed(error)
        finally:
            # Not context.peer(): where the call is over and gone, gRPC's code would crash the process.
            details = _REFUSED_BY_GRPC if self._refused_by_grpc else self._context.details()
            self._method.end(call, self._code, self._reason, details or None)

    async def no_message(self) -> NoReturn:
        """End a call without a message: the caller has gone, or the message was above the limit of bytes.

        Of that gRPC tells the caller by itself: then this call is cancelled, a moment after the end of its messages.
        """
        self._refused_by_grpc = time.monotonic() - self._call.begun < _AT_ONCE
        await asyncio.sleep(_MOMENT)
        self._refused_by_grpc = False
        raise malformed("The call ended without a message.")

    def _certificate(self) -> PeerCertificate:
        return peer_certificate(self._context.auth_context())

    async def _failed(self, error: BaseException) -> None:
        """Find out with which status the call has ended, and end it with that where it still goes on."""
        call, context = self._call, self._context
        if isinstance(error, asyncio.CancelledError):
            why = call.ended_by_us()
            if why is None:
                self._code = self._cancelled()
            else:
                self._code, self._reason = status.code(why).name, why.reason.value
                await self._send_away(why)
        elif isinstance(error, GeneratorExit):
            # The caller left between two answers, and Python has found the generator since.
            self._code = CANCELLED
        elif isinstance(error, grpc.aio.AbortError):
            self._code = status_of(context.code()).name
        elif isinstance(error, ServiceError):
            self._code, self._reason = status.code(error).name, error.reason.value
            await self._refuse(error)
        elif isinstance(error, Exception):  # gRPC would answer UNKNOWN and tell the caller our internals
            if (gone := only(cannot_send, error)) is not None:
                # gRPC cannot send because the call is over; it passes that over in silence, if it gets it bare.
                self._code = ended_by_peer(context).name
                raise gone from None
            code, self._reason, refused = content_refused(error)
            self._code = code.name
            if refused is None:
                _log.error("a defect of the service", exc_info=error)
                await self._abort(defect())
            elif isinstance(refused, ServiceError):
                await self._refuse(refused)
            else:
                await abort(context, code, str(refused), refused)

    def _cancelled(self) -> str:
        """How a call ended that gRPC has cancelled."""
        code = ended_by_peer(self._context)
        refused = self._refused_by_grpc and code is grpc.StatusCode.CANCELLED
        return grpc.StatusCode.RESOURCE_EXHAUSTED.name if refused else code.name

    async def _send_away(self, why: ServiceError) -> None:
        """Tell a caller why the server ends the call; where they take no answers, close their connection."""
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._refuse(why)
        except Exception as error:
            # gRPC cannot send where an answer waits to be taken, or where the caller has gone meanwhile.
            if not (isinstance(error, TimeoutError) or cannot_send(error)):
                raise
            if not self._call.address:  # a proxy's connection is many callers'
                self._access.closing.close(self._call.peer)

    async def _refuse(self, error: ServiceError) -> None:
        await self._method.refused(self._call, error)
        await self._abort(error)

    async def _abort(self, error: ServiceError) -> None:
        self._access.unread.send(self._call)
        told = status.trailers(error, self._method.field(error))
        trailers = (*(self._context.trailing_metadata() or ()), *told)
        await abort(self._context, status.code(error), error.message, error, trailers=trailers)


def caller_of(call: CallContext, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Whose call it is, and until when its answer is of use."""
    remaining = context.time_remaining()
    return Caller(lane=call.lane, deadline=None if remaining is None else time.monotonic() + remaining)
