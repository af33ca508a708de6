"""What surrounds a request as `grpc_call` surrounds a call: its caller, its place, its end, and what is told of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.call_metadata import REQUEST_ID_KEY
from glimpse.server.access.control import AccessControl
from glimpse.server.access.unauthenticated import UnauthenticatedCalls
from glimpse.server.calls import CANCELLED, OK, Method
from glimpse.server.domain import Caller
from glimpse.server.errors import DeadlineExceededError, OverloadedError, Reason, ServiceError, defect, draining, shown
from glimpse.server.fair_queue import Lane
from glimpse.server.http import problems
from glimpse.server.http.body import NO_BODY, CallerLeftError, Limit, check_head, read_body
from glimpse.server.http.connection import Connection

_log = structlog.get_logger(__name__)

TIMEOUT_KEY = "glimpse-timeout"  # header: seconds after which the answer is of no use
_LONGEST = 86_400.0  # seconds
_FLOODED = "Too many requests from your address had no message, were ended, or were refused. Send fewer of them."
_RETRY = 1.0  # seconds

Gate = Callable[[Lane], AbstractContextManager[None]]


@dataclass(slots=True)
class Asked:
    """A request whose caller is known, and whose body, if its method takes one, has been read."""

    request: Request
    call: CallContext
    caller: Caller
    body: bytes


Work = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method over HTTP, as an ASGI application.

    Attributes:
        method: begins and ends its calls.
        access: identifies callers.
        work: gives the response; its errors are answered here.
        gate: gives a place to a request that classifies, before its body is read.
        public: the budget of any other request, which has no body.
        limit: how large a body may be.
    """

    method: Method
    access: AccessControl
    work: Work
    gate: Gate | None = None
    public: UnauthenticatedCalls | None = None
    limit: Limit = NO_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection = scope["state"]["connection"]
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        call, authorization = self.method.read(headers, connection.peer, connection.port)
        if self.method.floods(call):
            refusal = OverloadedError(Reason.RATE_LIMITED, _FLOODED, retry_after=_RETRY)
            await problems.response(refusal)(scope, receive, send)
            return
        call.task = asyncio.current_task()
        self.method.begin(call, headers)
        answering = _Answering(self, Request(scope, receive), call)
        try:
            with answering.places:  # they are kept until the answer is written
                response = await answering.response(
                    lambda: self.method.identify(call, authorization, connection.certificate)
                )
                if response is not None:
                    await answering.send(response, send)
        finally:
            self.method.end(call, answering.code, answering.reason, answering.details)


class _Answering:
    """One request while it is answered."""

    def __init__(self, endpoint: Endpoint, request: Request, call: CallContext) -> None:
        self._endpoint, self._request, self._call = endpoint, request, call
        self.places = ExitStack()
        self.code, self.reason = OK, ""  # how it ends
        self.details: str | None = None
        self._gone = False  # whether its caller has closed the connection

    async def response(self, identify: Callable[[], None]) -> Response | None:
        """The response, also to a request that fails; None: nobody waits for it."""
        try:
            identify()
            return await self._in_time()
        except CallerLeftError:
            self.code = CANCELLED
            return None
        except asyncio.CancelledError:
            task, why = self._call.task, self._call.ended_by_us()
            if why is None:
                if task is not None:
                    task.uncancel()
                if self._gone:
                    self.code = CANCELLED
                    return None
                why = draining()  # the port has no more time for what has not ended by itself
            return await self._refused(why)
        except ServiceError as error:
            return await self._refused(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told nothing of our insides
            _log.error("a defect of the service", exc_info=error)
            told = defect()
            self.code = told.code.name
            return problems.response(told)

    async def send(self, response: Response, send: Send) -> None:
        """Write the response."""
        call, endpoint, request = self._call, self._endpoint, self._request
        response.headers[REQUEST_ID_KEY] = call.request_id
        if endpoint.gate is not None and not call.complete and "expect" in request.headers:
            response.headers["connection"] = "close"  # else nobody knows whether the body is still to come
        call.traffic.answered += len(response.body)
        if endpoint.gate is not None and self.code == OK:
            call.traffic.served = True
        try:
            await response(request.scope, request.receive, send)
        except asyncio.CancelledError:  # the server has no more time, and the caller takes none of it
            self.code, self.reason = CANCELLED, ""
            connection: Connection = request.scope["state"]["connection"]
            connection.transport.abort()
            await asyncio.sleep(0)

    async def _refused(self, error: ServiceError) -> Response:
        self.code, self.reason, self.details = error.code.name, error.reason.value, error.message
        await self._endpoint.method.refused(self._call, error)
        return problems.response(error, self._endpoint.method.field(error))

    async def _in_time(self) -> Response:
        seconds = _timeout(self._request)
        if seconds is None:
            return await self._answer(None)
        deadline = self._call.begun + seconds
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._answer(deadline)
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the answer was there. Allow more time.") from None

    async def _answer(self, deadline: float | None) -> Response:
        endpoint, call = self._endpoint, self._call
        if endpoint.gate is not None:
            self.places.enter_context(endpoint.gate(call.lane))
            return await self._answer_body(deadline)
        if endpoint.public is not None:
            self.places.enter_context(endpoint.public.place(call, streams=False))
            await endpoint.public.receive(call, _nothing, _as_it_is)
        return await endpoint.work(Asked(self._request, call, Caller(call.lane, deadline), b""))

    async def _answer_body(self, deadline: float | None) -> Response:
        endpoint, call, request = self._endpoint, self._call, self._request
        check_head(request, endpoint.limit)
        call.traffic.waiting += 1
        try:
            body = await endpoint.access.uploads.receive(
                call.who, call.peer, lambda: read_body(request.receive, endpoint.limit)
            )
        finally:
            call.traffic.waiting -= 1
        call.complete = time.monotonic()
        call.take(len(body))
        asked = Asked(request, call, Caller(call.lane, deadline), body)
        del body  # whoever works on it lets go of it once it is read
        watching = asyncio.create_task(self._until_gone(request.receive))
        try:
            return await endpoint.work(asked)
        finally:
            watching.cancel()

    async def _until_gone(self, receive: Receive) -> None:
        """End the request once its caller has closed the connection."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._call.task is not None:
            self._call.task.cancel()


def _timeout(request: Request) -> float | None:
    """Seconds after which the answer is of no use, as the request says; None: it does not.

    Raises:
        InvalidRequestError: expected; the header is no number of seconds.
    """
    text = request.headers.get(TIMEOUT_KEY)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:
        raise problems.malformed(
            f"{TIMEOUT_KEY} must be a number of seconds, above 0 and up to {_LONGEST:g}. Received: {shown(text)}.",
            field=TIMEOUT_KEY,
        )
    return seconds


async def _nothing() -> bytes:
    return b""


def _as_it_is(message: bytes, most: int) -> bytes:  # noqa: ARG001 - as `UnauthenticatedCalls.receive` has it
    return message
