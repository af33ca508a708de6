"""A stream of requests: read while there is room, answered in the order of completion. Any transport's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import structlog

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.access.revocation import still_authorized
from glimpse.server.calls import CANCELLED, OK
from glimpse.server.domain import Caller, Classification, ClassifyRequest
from glimpse.server.errors import Code, InvalidRequestError, Reason, ServiceError, defect, draining, shown
from glimpse.server.service import Service

_log = structlog.get_logger(__name__)

Received_contra = TypeVar("Received_contra", contravariant=True)
Asked = TypeVar("Asked", bound=ClassifyRequest)
Sent_co = TypeVar("Sent_co", covariant=True)
Received = TypeVar("Received")
Sent = TypeVar("Sent")

# Characters of the id of a request, which is kept until its answer is taken, in several copies; paths are shorter.
_LONGEST_ID = 4096


_Turn = tuple[
    asyncio.Event | None, asyncio.Event
]  # set when the one before is over, None: there is none; and when it is


class Codec(Protocol[Received_contra, Asked, Sent_co]):
    """Converts the messages of one transport's stream."""

    in_order: bool  # answers are in the order of the requests, so that ids need not tell these apart; else as they come

    def request_id(self, message: Received_contra) -> str:
        """The id by which the caller tells its requests apart."""
        ...

    def request(self, message: Received_contra, call: CallContext) -> Asked:
        """What is asked for; `call` is noted what it is.

        Raises:
            ServiceError: expected; the request gets an error.
        """
        ...

    async def answer(self, request_id: str, request: Asked, answer: Classification, call: CallContext) -> Sent_co:
        """The message with the answer to what `request` returned.

        Raises:
            ServiceError: expected; the request gets an error instead.
        """
        ...

    def refusal(self, request_id: str, error: ServiceError) -> Sent_co:
        """The message with an error."""
        ...


class ClassifyStream(Generic[Received, Asked, Sent]):
    """One stream."""

    def __init__(
        self,
        service: Service,
        codec: Codec[Received, Asked, Sent],
        call: CallContext,
        caller: Caller,
        write: Callable[[Sent], Awaitable[object]],
    ) -> None:
        """Answer the requests of `call` by `write`, one at a time; it returns when the next one may be written."""
        self._service, self._codec, self._call, self._caller = service, codec, call, caller
        self._write = write
        self._access: AccessControl = service.access
        self._window = asyncio.Semaphore(service.stream_window)
        self._writing = asyncio.Lock()
        self._in_flight: set[str] = set()
        self._last: asyncio.Event | None = None  # set when the answer to the last request has been written
        self._complete = False  # the client has sent all that it wanted to

    async def run(self, messages: AsyncIterator[Received]) -> None:
        """Answer all messages, or those that were read before the server drains.

        Raises:
            ServiceError: expected; the stream as a whole ends with an error.
        """
        service = self._service
        # A task that fails ends the whole group, so a place in the window need not outlive its answer.
        async with asyncio.TaskGroup() as answers:
            if not service.draining:
                reader = answers.create_task(self._read(messages, answers))
                service.readers.add(reader)
                reader.add_done_callback(service.readers.discard)
        if service.draining and not self._complete:
            raise draining()

    async def _read(self, messages: AsyncIterator[Received], answers: asyncio.TaskGroup) -> None:
        call, codec, in_flight = self._call, self._codec, self._in_flight
        incoming = aiter(messages)
        while True:
            await self._window.acquire()
            await self._service.room(self._caller)
            message = await anext(incoming, None)
            self._complete = message is None
            if message is None or not still_authorized(call):
                return
            request_id = codec.request_id(message)
            if len(request_id) > _LONGEST_ID:
                raise InvalidRequestError(
                    Reason.MALFORMED_MESSAGE,
                    f"The id of a request on a stream may have at most {_LONGEST_ID} characters. Received: "
                    f"{len(request_id)}. Send a shorter one.",
                    field="id",
                )
            duplicate = not codec.in_order and request_id in in_flight
            in_flight.add(request_id)
            part = call.of_request()
            # Else all requests of a stream would be answered by one version, whose id it has been given.
            part.key = call.key if call.key not in {"", call.request_id} else request_id or call.key
            turn = self._next_turn() if codec.in_order else None
            answers.create_task(self._answer(message, request_id, part, duplicate=duplicate, turn=turn))
            if self._access.rates is not None:
                await asyncio.sleep(0)  # by then it knows whether it has to wait for its turn
                await asyncio.sleep(part.turn - time.monotonic())

    def _next_turn(self) -> _Turn:
        """The turn of a request that has just been read, after all before it."""
        before, self._last = self._last, asyncio.Event()
        return before, self._last

    async def _answer(
        self, message: Received, request_id: str, part: CallContext, *, duplicate: bool, turn: _Turn | None
    ) -> None:
        call = self._call
        response = await self._response(message, request_id, part, duplicate=duplicate)
        call.model = part.model
        call.images += part.images
        call.bytes += part.bytes
        if not duplicate:
            # Before it is written: the client may use the id again as soon as it has the answer.
            self._in_flight.discard(request_id)
        # Megabytes, which nobody has counted since it was answered, and the client may not read for long.
        del message
        # A transport takes one message at a time. Where the client does not read, this waits, the window stays taken
        # and no more is read: that is the back-pressure.
        if turn is not None and turn[0] is not None:
            await turn[0].wait()
        async with self._writing:
            if still_authorized(call):  # else the stream is being ended
                await self._write(response)
        if turn is not None:
            turn[1].set()
        self._window.release()

    async def _response(self, message: Received, request_id: str, part: CallContext, *, duplicate: bool) -> Sent:
        """The answer to a request, or its error. Either way it is written down in the audit log."""
        audit, begun = self._access.audit, time.monotonic()
        code, reason = CANCELLED, ""  # unless it comes to an end
        try:
            try:
                if duplicate:
                    raise _duplicate(request_id)  # noqa: TRY301 - one place answers
                request = self._codec.request(message, part)
                answer = await self._service.classify(request, part, self._caller, bulk=True)
                response = await self._codec.answer(request_id, request, answer, part)
            except Exception as error:  # noqa: BLE001 - its defect must not cost the other requests their answers
                if isinstance(error, ServiceError):
                    told = error
                else:
                    _log.exception("a defect of the service", stream_id=shown(request_id))
                    told = defect()
                code, reason = Code(told.code).name, told.reason.value
                self._service.metrics.request_rejected(told.reason, part.served)
                response = self._codec.refusal(request_id, told)
            else:
                code = OK
        finally:
            if audit is not None:
                audit.write(part, code=code, reason=reason, seconds=time.monotonic() - begun, stream_id=request_id)
        return response


def _duplicate(request_id: str) -> InvalidRequestError:
    return InvalidRequestError(
        Reason.DUPLICATE_ID,
        f"A request with the id {shown(request_id)} is already in flight on this stream. Use a different "
        "id for each request.",
    )
