"""One `ClassifyStream` of bulk work: what was sent on it, what it has still to answer, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

import grpc

from glimpse.client.events import Ended, Reply
from glimpse.v1 import classifier_pb2 as pb

OpenStream = Callable[[Iterator[pb.ClassifyStreamRequest]], Any]


class Stream:
    """A call that has been started. gRPC sends in a thread of its own, another one here receives."""

    def __init__(self, open_stream: OpenStream, put: Callable[[Reply | Ended], None]) -> None:
        """Start the call.

        Args:
            open_stream: starts it on a server that gRPC chooses.
            put: takes the replies and at last the end; called in the receiver's thread.

        Raises:
            ValueError: the channel is closed.
        """
        self.pending: set[str] = set()  # ids that were sent here and have no reply yet
        self.answered = False  # whether an image got its answer here; for the consumer to set
        self._outbox: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()  # None: no more will come
        self._put = put
        self._call = open_stream(iter(self._outbox.get, None))
        Thread(target=self._receive, name="glimpse-bulk-receive", daemon=True).start()

    def send(self, request: pb.ClassifyStreamRequest) -> None:
        """Queue a request; returns at once."""
        self.pending.add(request.id)
        self._outbox.put(request)

    def half_close(self) -> None:
        """Say that no more will come; the server answers what it has and ends the stream."""
        self._outbox.put(None)

    def cancel(self) -> None:
        """Be done with it; does nothing to a call that has ended."""
        self._call.cancel()
        self._outbox.put(None)  # wakes gRPC's sender; before the cancelling it would look like an end in peace

    def _receive(self) -> None:
        try:
            for message in self._call:
                self._put(Reply(self, message))
        except grpc.RpcError as error:
            self._put(Ended(self, error))
        else:
            self._put(Ended(self, None))
