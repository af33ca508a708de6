"""One connection of a soak, and what comes of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from glimpse.client.results import Limits
from glimpse.client.status import TOO_LARGE, from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc
from tools.load.pictures import Picture, Pictures

SERVICE = "glimpse.v1.ImageClassifier"
PATIENCE = 120.0  # seconds; what takes longer hangs
ANSWERED = "answered"  # everything in the answer is as it must be
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, and so a lane
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request, and what the server must have counted for it."""

    name: str  # `ANSWERED`, or the code and the reason
    classified: int = 0  # images
    refused: tuple[str, ...] = ()  # the reasons of its images
    rejected: tuple[str, ...] = ()  # the reasons of whole requests: one, or those of a stream's pieces
    unsure: int = 0  # images of which nobody can say whether they were admitted before the caller had gone
    detail: str = ""  # of what is wrong, for people


class Wire:
    """One connection."""

    def __init__(self, target: str, pictures: Pictures, limits: Limits) -> None:
        """Prepare it; the first call connects."""
        self.target, self.pictures, self.limits = target, pictures, limits
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self.stub = classifier_pb2_grpc.ImageClassifierStub(self._channel)
        self.health: Any = health_pb2_grpc.HealthStub(self._channel)
        self.bare: Any = self._channel.unary_unary(f"/{SERVICE}/Classify")  # bytes in, bytes out
        self.nothing: Any = self._channel.unary_unary(f"/{SERVICE}/Nothing")

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._channel.close()

    def call(self, request: pb.ClassifyRequest, pictures: Sequence[Picture]) -> Outcome:
        """Classify, and compare."""
        try:
            return compare(self.stub.Classify(request, timeout=PATIENCE).results, pictures)
        except grpc.RpcError as error:
            return self.failed(error)

    def failed(self, error: grpc.RpcError, unsure: int = 0) -> Outcome:
        """The outcome of a call that ended with a status."""
        cause = from_rpc_error(error, self.target)
        return Outcome(
            f"{cause.code.name} {cause.reason}".strip(),
            # gRPC refuses what is too large; the reason is the client's word for it.
            rejected=(cause.reason,) if cause.reason not in {"", TOO_LARGE} else (),
            unsure=unsure,
            detail=cause.message,
        )


def compare(results: Sequence[pb.ImageResult], pictures: Sequence[Picture]) -> Outcome:
    """Whether each image got the label or the refusal that it must get."""
    got = [f"!{result.error.reason}" if result.HasField("error") else _first(result) for result in results]
    wanted = [picture.expected for picture in pictures]
    refused = tuple(each[1:] for each in got if each.startswith("!"))
    return Outcome(
        ANSWERED if got == wanted else "WRONG",
        classified=len(got) - len(refused),
        refused=refused,
        detail="" if got == wanted else f"expected {wanted}, received {got}",
    )


def _first(result: pb.ImageResult) -> str:
    return result.predictions[0].label if result.predictions else "nothing"
