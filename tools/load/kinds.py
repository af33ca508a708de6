"""The kinds of requests of a soak: what each sends, and what may come of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from glimpse.v1 import classifier_pb2 as pb
from tools.load.pictures import Picture, Pictures
from tools.load.wire import ANSWERED, PATIENCE, SERVICE, Outcome, Wire, compare

FULL = frozenset({"RESOURCE_EXHAUSTED QUEUE_FULL", "RESOURCE_EXHAUSTED SHARE_FULL"})


def _request(pictures: Sequence[Picture], **options: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        images=[picture.image for picture in pictures], options=pb.ClassifyOptions(**options) if options else None
    )


# --- kinds: each takes a connection and a generator of random numbers ---------------------------------------------


def _one(of: Callable[[Pictures], list[Picture]], wire: Wire, generator: random.Random) -> Outcome:
    picture = generator.choice(of(wire.pictures))
    return wire.call(_request([picture]), [picture])


def _bad(reason: str, wire: Wire, generator: random.Random) -> Outcome:
    picture = generator.choice(wire.pictures.bad[reason])
    return wire.call(_request([picture]), [picture])


def _many(wire: Wire, generator: random.Random) -> Outcome:
    """32 images, sometimes a bad one among them."""
    pictures = [generator.choice(wire.pictures.small + wire.pictures.fitting) for _ in range(32)]
    if generator.random() < 1 / 3:
        pictures[generator.randrange(32)] = _any_bad(wire, generator)
    return wire.call(_request(pictures), pictures)


def _any_bad(wire: Wire, generator: random.Random) -> Picture:
    return generator.choice(wire.pictures.bad[generator.choice(sorted(wire.pictures.bad))])


def _bad_options(wire: Wire, generator: random.Random) -> Outcome:
    picture = wire.pictures.good(generator)
    requests = [
        _request([picture], top_k=0),
        _request([picture], top_k=1_000_000),
        _request([picture], min_probability=2.0),
        _request([picture], geometry="sideways"),
        _request([]),
        _request([picture] * (wire.limits.max_images_per_request + 1)),
        pb.ClassifyRequest(model=pb.ModelSelector(name="nobody"), images=[picture.image]),
    ]
    return wire.call(generator.choice(requests), [picture])


def _hasty(wire: Wire, generator: random.Random) -> Outcome:
    """A deadline about as long as the work."""
    picture = generator.choice(wire.pictures.small + wire.pictures.photo)
    try:
        response = wire.stub.Classify(_request([picture]), timeout=generator.uniform(0.0005, 0.02))
    except grpc.RpcError as error:
        return wire.failed(error, unsure=1)
    return compare(response.results, [picture])


def _left(wire: Wire, generator: random.Random) -> Outcome:
    """A caller who goes at any moment."""
    picture = generator.choice(wire.pictures.small + wire.pictures.photo)
    future: Any = wire.stub.Classify.future(_request([picture]), timeout=PATIENCE)
    time.sleep(generator.uniform(0, 0.02))
    future.cancel()
    if future.code() is grpc.StatusCode.OK:
        return compare(future.result().results, [picture])
    if future.code() is grpc.StatusCode.CANCELLED:
        return Outcome("CANCELLED", unsure=1)
    return wire.failed(future)


def _oversized(wire: Wire, generator: random.Random) -> Outcome:
    return _raw_call(wire, bytes(wire.limits.max_message_bytes + 1))


def _malformed(wire: Wire, generator: random.Random) -> Outcome:
    good = _request([wire.pictures.good(generator)]).SerializeToString()
    return _raw_call(wire, generator.choice([good[:-1], b"\xff" * 100, good + b"\x07"]))


def _raw_call(wire: Wire, message: bytes) -> Outcome:
    try:
        wire.bare(message, timeout=PATIENCE)
    except grpc.RpcError as error:
        return wire.failed(error)
    return Outcome("WRONG", detail="a message that is none was answered")


def _describe(wire: Wire, generator: random.Random) -> Outcome:
    try:
        found = wire.stub.DescribeModel(pb.DescribeModelRequest(), timeout=PATIENCE)
    except grpc.RpcError as error:
        return wire.failed(error)
    return Outcome(ANSWERED if found.classes and found.stages else "WRONG")


def _health(wire: Wire, generator: random.Random) -> Outcome:
    try:
        found = wire.health.Check(
            health_pb2.HealthCheckRequest(service=generator.choice(["", SERVICE])), timeout=PATIENCE
        )
    except grpc.RpcError as error:
        return wire.failed(error)
    return Outcome(ANSWERED if found.status == health_pb2.HealthCheckResponse.SERVING else "WRONG")


def _unknown(wire: Wire, generator: random.Random) -> Outcome:
    try:
        wire.nothing(b"", timeout=PATIENCE)
    except grpc.RpcError as error:
        return wire.failed(error)
    return Outcome("WRONG", detail="a method that is none was answered")


@dataclass
class _Stream:
    """A stream's pieces, and what has come of them."""

    pieces: dict[str, tuple[pb.ClassifyRequest, Picture | None]]  # None: the piece as a whole must be rejected
    classified: int = 0
    refused: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    wrong: str = ""

    def requests(self) -> Iterator[pb.ClassifyStreamRequest]:
        # From a copy: answers take pieces out while others are still being sent.
        for number, (request, _) in list(self.pieces.items()):
            yield pb.ClassifyStreamRequest(id=number, request=request)

    def answered(self, answer: pb.ClassifyStreamResponse) -> None:
        _, picture = self.pieces.pop(answer.id, (None, None))
        if answer.HasField("error"):
            self.rejected.append(answer.error.reason)
            if picture is not None or answer.error.reason != "TOP_K_OUT_OF_RANGE":
                self.wrong = f"piece {answer.id!r}: {answer.error.reason} {answer.error.message}"
            return
        found = compare(answer.response.results, [] if picture is None else [picture])
        self.classified += found.classified
        self.refused += found.refused
        if found.name != ANSWERED:
            self.wrong = f"piece {answer.id!r}: {found.detail}"

    def outcome(self, name: str, unsure: int = 0) -> Outcome:
        return Outcome(
            "WRONG" if self.wrong else name,
            classified=self.classified,
            refused=tuple(self.refused),
            rejected=tuple(self.rejected),
            unsure=unsure,
            detail=self.wrong,
        )


def _stream(wire: Wire, generator: random.Random) -> Outcome:
    """A stream that is read to its end: a bad image and bad options among its pieces."""
    pictures = [wire.pictures.good(generator) for _ in range(generator.randint(8, 30))]
    pictures[generator.randrange(len(pictures))] = _any_bad(wire, generator)
    stream = _Stream({str(i): (_request([picture]), picture) for i, picture in enumerate(pictures)})
    stream.pieces["bad options"] = (_request(pictures[:1], top_k=0), None)
    wanted = len(stream.pieces)
    try:
        for answer in wire.stub.ClassifyStream(stream.requests(), timeout=PATIENCE):
            stream.answered(answer)
    except grpc.RpcError as error:
        return wire.failed(error)
    if stream.pieces and not stream.wrong:
        stream.wrong = f"{len(stream.pieces)} of {wanted} pieces were not answered"
    return stream.outcome(ANSWERED)


def _stream_left(wire: Wire, generator: random.Random) -> Outcome:
    """A stream whose caller goes after a few answers."""
    pictures = [wire.pictures.good(generator) for _ in range(20)]
    stream = _Stream({str(i): (_request([picture]), picture) for i, picture in enumerate(pictures)})
    call = wire.stub.ClassifyStream(stream.requests(), timeout=PATIENCE)
    read = 0
    try:
        for _ in range(generator.randint(0, 6)):
            stream.answered(next(call))
            read += 1
    except grpc.RpcError as error:
        return wire.failed(error)
    call.cancel()
    return stream.outcome("CANCELLED", unsure=20 - read)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request."""

    weight: float
    run: Callable[[Wire, random.Random], Outcome]
    expected: frozenset[str]


def _kind(weight: float, run: Callable[[Wire, random.Random], Outcome], *expected: str) -> Kind:
    return Kind(weight, run, frozenset(expected or {ANSWERED}))


KINDS: dict[str, Kind] = {
    "small photo": _kind(30, partial(_one, lambda pictures: pictures.small)),
    "photo": _kind(12, partial(_one, lambda pictures: pictures.photo)),
    "large photo": _kind(1, partial(_one, lambda pictures: pictures.large)),
    "raw pixels, fitting": _kind(10, partial(_one, lambda pictures: pictures.fitting)),
    "raw pixels": _kind(4, partial(_one, lambda pictures: pictures.raw)),
    "32 images": _kind(2, _many),
    "stream": _kind(2, _stream),
    "stream, left by its caller": _kind(1, _stream_left, "CANCELLED"),
    "truncated": _kind(4, partial(_bad, "TRUNCATED_IMAGE")),
    "not an image": _kind(3, partial(_bad, "NOT_AN_IMAGE")),
    "pixel bomb": _kind(3, partial(_bad, "IMAGE_PIXELS_EXCEEDED")),
    "format refused": _kind(1, partial(_bad, "UNSUPPORTED_FORMAT")),
    "no bytes": _kind(1, partial(_bad, "EMPTY_IMAGE")),
    "raw pixels, mismatch": _kind(1, partial(_bad, "RAW_PIXELS_MISMATCH")),
    "bad options": _kind(
        4,
        _bad_options,
        "INVALID_ARGUMENT TOP_K_OUT_OF_RANGE",
        "INVALID_ARGUMENT MIN_PROBABILITY_OUT_OF_RANGE",
        "INVALID_ARGUMENT GEOMETRY_NOT_ALLOWED",
        "INVALID_ARGUMENT NO_IMAGES",
        "INVALID_ARGUMENT TOO_MANY_IMAGES",
        "NOT_FOUND MODEL_NOT_FOUND",
    ),
    "tiny deadline": _kind(4, _hasty, ANSWERED, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED DEADLINE_EXCEEDED"),
    "left by its caller": _kind(4, _left, ANSWERED, "CANCELLED"),
    "oversized message": _kind(0.5, _oversized, "INVALID_ARGUMENT MESSAGE_TOO_LARGE"),
    "malformed message": _kind(2, _malformed, "INVALID_ARGUMENT MALFORMED_MESSAGE"),
    "description": _kind(2, _describe),
    "health": _kind(3, _health),
    "unknown method": _kind(1, _unknown, "UNIMPLEMENTED"),
}
BURST = "burst above the limit"
EXPECTED = {**{name: kind.expected for name, kind in KINDS.items()}, BURST: FULL | {ANSWERED}}


def choose(generator: random.Random) -> str:
    """The name of a kind, by the weights."""
    return generator.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]


def burst(wire: Wire, calls: int, images: int, generator: random.Random) -> list[Outcome]:
    """So many calls at once, each with so many images: more than the server lets in."""
    chosen = [[generator.choice(wire.pictures.fitting) for _ in range(images)] for _ in range(calls)]
    requests = [_request(pictures) for pictures in chosen]  # beforehand, or a fast server answers while they are made
    sent: list[tuple[Any, list[Picture]]] = [
        (wire.stub.Classify.future(request, timeout=PATIENCE), pictures)
        for request, pictures in zip(requests, chosen, strict=True)
    ]
    return [
        compare(future.result().results, pictures) if future.code() is grpc.StatusCode.OK else wire.failed(future)
        for future, pictures in sent
    ]
