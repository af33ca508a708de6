"""Every way in which a request can end: it gets its answer, gives back all that it held, and harms no neighbour."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from glimpse.server.decoding.pool import Times
from glimpse.server.fair_queue import Lane
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import rich_status
from tests.server.rig import LONG, SIZE, Rig

SOON = 1.0  # seconds; a deadline that passes while the request is held
CAPACITY = 16  # images in flight
METHOD = "/glimpse.v1.ImageClassifier/Classify"

RAW = pb.Image(raw=pb.RawPixels(height=SIZE, width=SIZE, data=bytes(SIZE * SIZE * 3)))  # goes straight to the queue
# Other than the input's size, so that a decoder thread has to fit it.
LARGER = pb.Image(raw=pb.RawPixels(height=SIZE + 1, width=SIZE, data=bytes((SIZE + 1) * SIZE * 3)))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        rig = Rig(
            patch,
            f"--max-images-in-flight={CAPACITY}",
            "--max-images-per-request=12",
            "--decode-threads=1",
            "--upload-seconds=600",
        )
        yield rig
        rig.close()


@pytest.fixture(scope="module")
def channel(rig: Rig) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(rig.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def elsewhere(rig: Rig) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(rig.other_target) as channel:
        yield channel


class Scene:
    """A request that ends somehow, beside one that computes and one that waits in the same queue."""

    def __init__(self, rig: Rig, channel: grpc.Channel, elsewhere: grpc.Channel) -> None:
        self.rig = rig
        self.channel = channel
        self.elsewhere = elsewhere  # from another address
        self.stub = ImageClassifierStub(channel)

    def send(self, *images: pb.Image, deadline: float = LONG, **more: Any) -> Any:
        return self.stub.Classify.future(pb.ClassifyRequest(images=images, **more), timeout=deadline)

    def queued(self, call: Any, images: int = 1) -> Any:
        """The call, once its images wait for the device."""
        self.rig.wait_until(lambda: self.rig.gauge("glimpse_queue_depth") >= images)
        return call

    def hold_decoding(self) -> Any:
        """Another request, on whose image the one decoder thread is at work from now on."""
        self.rig.decoding.hold()
        call = self.send(LARGER)
        self.rig.decoding.begun()
        return call


def cancelled(call: Any) -> Any:
    call.cancel()
    return call


Ends = Callable[[Scene], Any]


def uploading(scene: Scene, deadline: float = LONG) -> Any:
    """A call whose message does not come."""
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(2 * LONG)
        yield from ()

    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = scene.channel.stream_unary(METHOD)
    call = method.future(nothing(), timeout=deadline)
    call.add_done_callback(lambda _: never.set())
    scene.rig.wait_until(lambda: scene.rig.held()["calls"] >= 3)
    return call


def decoding(scene: Scene, deadline: float = LONG) -> Any:
    """A call whose image is being decoded."""
    scene.rig.decoding.hold()
    call = scene.send(LARGER, deadline=deadline)
    scene.rig.decoding.begun()
    return call


def waiting_for_a_decoder(scene: Scene, deadline: float = LONG) -> Any:
    """A call whose image stands behind another one's in the decoders' queue."""
    scene.hold_decoding()
    call = scene.send(LARGER, deadline=deadline)
    scene.rig.wait_until(lambda: scene.rig.server._decoders.ahead(Lane("nobody")).items >= 1)
    return call


def waiting_for_the_device(scene: Scene, deadline: float = LONG) -> Any:
    """A call whose image stands in the device's queue."""
    return scene.queued(scene.send(RAW, deadline=deadline), images=2)


def in_the_device(scene: Scene, deadline: float = LONG) -> Any:
    """A call whose image is being computed, in one batch with the neighbour's."""
    call = waiting_for_the_device(scene, deadline)
    scene.rig.network.let(batches=1)
    scene.rig.network.begun()
    return call


def in_a_batch_that_fails(scene: Scene, error: Exception) -> Any:
    call = in_the_device(scene)
    scene.rig.network.errors.append(error)
    return call


def a_stream_that_waits_for_room(scene: Scene) -> Any:
    """A stream that may have no more in flight, and has sent more."""
    twelve = pb.ClassifyRequest(images=[LARGER] * 12)
    pieces = [pb.ClassifyStreamRequest(id=str(number), request=twelve) for number in range(3)]
    call: Any = scene.stub.ClassifyStream(iter(pieces), timeout=LONG)
    scene.rig.wait_until(lambda: scene.rig.held()["waiting"] >= 1)
    return call


class Ending(NamedTuple):
    """One way to end."""

    ends: Ends
    code: grpc.StatusCode
    reason: str = ""  # "": none of ours
    neighbour: grpc.StatusCode = grpc.StatusCode.OK
    at_once: bool = True  # while everything around it is held


def answered(scene: Scene) -> Any:
    return scene.send(RAW, LARGER)


def with_a_bad_image(scene: Scene) -> Any:
    return scene.send(RAW, pb.Image(encoded=b"not an image"))


def with_a_bad_option(scene: Scene) -> Any:
    return scene.send(RAW, options=pb.ClassifyOptions(top_k=11))


def of_an_unknown_model(scene: Scene) -> Any:
    return scene.send(RAW, model=pb.ModelSelector(name="nobody"))


def malformed(scene: Scene) -> Any:
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = scene.channel.unary_unary(METHOD)
    return method.future(b"\xff\xff\xff", timeout=LONG)


def without_room(scene: Scene) -> Any:
    """Of another party, for which there would be a share, but not twelve places."""
    first = scene.send(*[RAW] * 11)
    scene.rig.wait_until(lambda: scene.rig.held()["images"] >= 13)
    request = pb.ClassifyRequest(images=[RAW] * 12)
    return first, ImageClassifierStub(scene.elsewhere).Classify.future(request, timeout=LONG)


def beyond_its_share(scene: Scene) -> Any:
    return scene.send(*[RAW] * 11), scene.send(RAW), scene.send(RAW)


def too_late_to_be_tried(scene: Scene) -> Any:
    """The decoders are known to take ten seconds an image, and one stands before it."""
    waiting_for_a_decoder(scene)
    scene.rig.server._decoders._times.add(10_000.0, 1000)
    return scene.send(LARGER, deadline=SOON)


ENDINGS = {
    "answered": Ending(answered, grpc.StatusCode.OK, at_once=False),
    "a bad image": Ending(with_a_bad_image, grpc.StatusCode.OK, at_once=False),
    "a bad option": Ending(with_a_bad_option, grpc.StatusCode.INVALID_ARGUMENT, "TOP_K_OUT_OF_RANGE"),
    "an unknown model": Ending(of_an_unknown_model, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    "a malformed message": Ending(malformed, grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    "cancelled before its message": Ending(lambda scene: cancelled(uploading(scene)), grpc.StatusCode.CANCELLED),
    "cancelled while it is decoded": Ending(lambda scene: cancelled(decoding(scene)), grpc.StatusCode.CANCELLED),
    "cancelled in the decoders' queue": Ending(
        lambda scene: cancelled(waiting_for_a_decoder(scene)), grpc.StatusCode.CANCELLED
    ),
    "cancelled in the device's queue": Ending(
        lambda scene: cancelled(waiting_for_the_device(scene)), grpc.StatusCode.CANCELLED
    ),
    "cancelled in the device": Ending(lambda scene: cancelled(in_the_device(scene)), grpc.StatusCode.CANCELLED),
    "a stream cancelled while it waits for room": Ending(
        lambda scene: cancelled(a_stream_that_waits_for_room(scene)), grpc.StatusCode.CANCELLED
    ),
    "deadline before its message": Ending(
        lambda scene: uploading(scene, deadline=SOON), grpc.StatusCode.DEADLINE_EXCEEDED
    ),
    "deadline while it is decoded": Ending(
        lambda scene: decoding(scene, deadline=SOON), grpc.StatusCode.DEADLINE_EXCEEDED
    ),
    "deadline in the decoders' queue": Ending(
        lambda scene: waiting_for_a_decoder(scene, deadline=SOON), grpc.StatusCode.DEADLINE_EXCEEDED
    ),
    "deadline in the device's queue": Ending(
        lambda scene: waiting_for_the_device(scene, deadline=SOON), grpc.StatusCode.DEADLINE_EXCEEDED
    ),
    "deadline in the device": Ending(
        lambda scene: in_the_device(scene, deadline=SOON), grpc.StatusCode.DEADLINE_EXCEEDED
    ),
    "too late to be tried": Ending(too_late_to_be_tried, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    "a runtime error": Ending(
        lambda scene: in_a_batch_that_fails(scene, RuntimeError("the device is ill")),
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        neighbour=grpc.StatusCode.INTERNAL,  # of the same batch
        at_once=False,
    ),
    "no room": Ending(without_room, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    "no room for this party": Ending(beyond_its_share, grpc.StatusCode.RESOURCE_EXHAUSTED, "SHARE_FULL"),
    # The last, for from then on the server makes smaller batches.
    "no memory for the batch": Ending(
        lambda scene: in_a_batch_that_fails(scene, MemoryError("the device is full")),
        grpc.StatusCode.OK,
        at_once=False,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_request_gives_back_all_that_it_held_and_harms_no_neighbour(
    rig: Rig, channel: grpc.Channel, elsewhere: grpc.Channel, name: str
) -> None:
    ending = ENDINGS[name]
    scene = Scene(rig, channel, elsewhere)
    rig.wait_until(lambda: not any(rig.held().values()))
    rig.server._decoders._times = Times()
    rig.network.hold()
    try:
        computing = scene.send(RAW)
        rig.network.begun()
        neighbour = scene.queued(scene.send(RAW))
        victims = ending.ends(scene)
        victim = victims[-1] if isinstance(victims, tuple) else victims
        if ending.at_once:
            rig.wait_until(victim.done)
            assert not neighbour.done()
    finally:
        rig.network.let()
        rig.decoding.go.set()
    assert victim.code() is ending.code, victim.details()
    if ending.reason:
        assert rich_status(victim)[1].reason == ending.reason
    assert computing.code() is grpc.StatusCode.OK
    assert neighbour.code() is ending.neighbour
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_drain_answers_what_is_in_flight_and_tells_streams_to_go_elsewhere() -> None:
    """A drain answers what is in flight, and tells a stream that goes on to go elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        rig = Rig(patch, "--drain-seconds=60")
        try:
            with grpc.insecure_channel(rig.target) as channel:
                scene = Scene(rig, channel, channel)
                rig.network.hold()
                computing = scene.send(RAW)
                rig.network.begun()
                queued = scene.queued(scene.send(RAW))
                more = threading.Event()

                def pieces() -> Iterator[pb.ClassifyStreamRequest]:
                    yield pb.ClassifyStreamRequest(id="sent", request=pb.ClassifyRequest(images=[RAW]))
                    more.wait(LONG)

                stream: Any = scene.stub.ClassifyStream(pieces(), timeout=LONG)
                rig.wait_until(lambda: rig.gauge("glimpse_queue_depth") == 2)
                rig.stop()
                rig.wait_until(lambda: rig.gauge("glimpse_ready") == 0)
                rig.network.let()
                assert next(stream).id == "sent"
                with pytest.raises(grpc.RpcError) as ended:
                    next(stream)
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert rich_status(ended.value)[1].reason == "DRAINING"
                assert [computing.code(), queued.code()] == [grpc.StatusCode.OK] * 2
                more.set()
        finally:
            rig.close()
        assert not any(rig.held().values())
