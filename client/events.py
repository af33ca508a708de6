"""What can happen in a run of bulk work, and the stream on which it does, for both clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc

from glimpse.client.reading import Exhausted, Failed, Job
from glimpse.v1 import classifier_pb2 as pb

K = TypeVar("K")


class BulkStream(Protocol):
    """One `ClassifyStream`, of either client."""

    pending: set[str]  # ids that were sent here and have no reply yet
    answered: bool  # whether an image got its answer here; for `Dispatch` to set

    def send(self, request: pb.ClassifyStreamRequest) -> None:
        """Queue a request; returns at once."""

    def half_close(self) -> None:
        """Say that no more will come; the server answers what it has and ends the stream."""

    def cancel(self) -> None:
        """Be done with it; does nothing to a call that has ended."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer or a refusal arrived."""

    stream: BulkStream
    message: pb.ClassifyStreamResponse


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream is over."""

    stream: BulkStream
    error: grpc.RpcError | None  # None: with OK


Event = Job[K] | Exhausted | Failed | Reply | Ended
