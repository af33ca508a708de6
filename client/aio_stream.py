"""One `ClassifyStream` of bulk work on an event loop: what was sent, what is still to be answered, how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from glimpse.client.events import Ended, Reply
from glimpse.client.reading import Failed
from glimpse.v1 import classifier_pb2 as pb

_REFUSED_SECONDS = 0.25  # for a server to refuse a stream on which nothing was sent yet

OpenCall = Callable[[], Awaitable[Any]]


class AsyncStream:
    """A call in a task of its own, which receives; a second task sends, and ends with the first.

    Where a write meets the end of its call, grpc.aio takes the end for INTERNAL, and what the server said is lost. That
    could be a refusal that will come again. So the stream after such an end is careful: it leaves the server time to
    refuse it, and writes no second image before there is a reply to the first.
    """

    def __init__(
        self, open_call: OpenCall, put: Callable[[Reply | Ended | Failed], None], *, careful: bool = False
    ) -> None:
        """Start the call.

        Args:
            open_call: starts it on a server that gRPC chooses; may wait before it does.
            put: takes the replies and at last the end, unless the stream is cancelled.
            careful: whether the end of the stream before was hidden.
        """
        self.end_is_hidden = False  # whether what the server said at the end was lost
        self.pending: set[str] = set()  # ids that were sent here and have no reply yet
        self.answered = False  # whether an image got its answer here; for the consumer to set
        self._outbox: asyncio.Queue[pb.ClassifyStreamRequest | None] = asyncio.Queue()  # None: no more will come
        self._put = put
        self._careful = careful
        self._alive = asyncio.Event()  # set by the first reply
        self.task = asyncio.create_task(self._live(open_call), name="glimpse-bulk-receive")

    def send(self, request: pb.ClassifyStreamRequest) -> None:
        """Queue a request; returns at once."""
        self.pending.add(request.id)
        self._outbox.put_nowait(request)

    def half_close(self) -> None:
        """Say that no more will come; the server answers what it has and ends the stream."""
        self._outbox.put_nowait(None)

    def cancel(self) -> None:
        """Be done with it; does nothing to a call that has ended. `task` ends soon after."""
        self.task.cancel()

    async def _live(self, open_call: OpenCall) -> None:
        try:
            await self._receive(await open_call())
        except grpc.RpcError as error:
            self._put(Ended(self, error))
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            self._put(Ended(self, None))  # the channel was closed
        except Exception as error:  # noqa: BLE001  (whatever it is, it belongs to the task that iterates)
            self._put(Failed(error))
        else:
            self._put(Ended(self, None))

    async def _receive(self, call: Any) -> None:
        sending = asyncio.create_task(self._send_to(call), name="glimpse-bulk-send")
        try:
            async for message in call:
                self._alive.set()
                self._put(Reply(self, message))
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.wait([sending])

    async def _send_to(self, call: Any) -> None:
        try:
            if self._careful:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._alive.wait(), _REFUSED_SECONDS)
            while (request := await self._outbox.get()) is not None:
                await call.write(request)
                if self._careful:
                    await self._alive.wait()
            await call.done_writing()
        except grpc.RpcError:
            self.end_is_hidden = True
        except asyncio.InvalidStateError:
            return  # the call has ended; the receiver tells how


def cancelled_from_outside() -> bool:
    """Whether somebody cancelled the task that runs, which gRPC's own cancelling of a call looks like, too."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
