"""Where an image's time went: the stages follow one another without a gap, whatever the server is kept waiting by."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from glimpse.server.metrics.stages import STAGES, ModelStages
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.rig import SIZE, Rig

HELD = 0.3  # seconds that something is held, beside which the noise of a busy machine is little
MODEL = {"model": "se_resnet20_cifar10", "version": "1"}
RPC = {"grpc_type": "unary", "grpc_service": "glimpse.v1.ImageClassifier", "grpc_method": "Classify"}


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def rig(audit: Path) -> Iterator[Rig]:
    """A server with one decoder."""
    with pytest.MonkeyPatch.context() as patch:
        running = Rig(patch, "--decode-threads=1", f"--audit-log={audit}")
        yield running
        running.close()


def jpeg(height: int, width: int) -> pb.Image:
    pixels = np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return pb.Image(encoded=buffer.getvalue())


def raw(side: int) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=side, width=side, data=bytes(side * side * 3)))


def total(timing: pb.Timing) -> float:
    return float(sum(getattr(timing, f"{stage}_seconds") for stage in STAGES))


def counted(rig: Rig, stage: str) -> float:
    return rig.gauge("glimpse_stage_seconds_sum", stage=stage, **MODEL)


def send(callers: ThreadPoolExecutor, stub: ImageClassifierStub, *images: pb.Image) -> Future[pb.ClassifyResponse]:
    return callers.submit(stub.Classify, pb.ClassifyRequest(images=images), timeout=TIMEOUT)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def test_an_image_waiting_for_a_decoder_says_so_and_is_counted_while_it_waits(
    rig: Rig, callers: ThreadPoolExecutor
) -> None:
    rig.network.let()
    with grpc.insecure_channel(rig.target) as channel:
        stub = ImageClassifierStub(channel)
        rig.decoding.hold()
        first = send(callers, stub, jpeg(64, 64))
        rig.decoding.begun()
        others = [send(callers, stub, jpeg(64, 64)) for _ in range(5)]
        rig.wait_until(lambda: rig.gauge("glimpse_decode_queue_depth") == 5)
        assert rig.gauge("glimpse_queue_depth") == 0
        time.sleep(HELD)
        rig.decoding.go.set()
        timings = [each.result(TIMEOUT).results[0].timing for each in (first, *others)]
    assert rig.gauge("glimpse_decode_queue_depth") == 0
    assert timings[0].decode_seconds >= HELD > timings[0].decode_wait_seconds
    for timing in timings[1:]:
        assert timing.decode_wait_seconds >= HELD
        assert timing.decode_wait_seconds > 0.9 * total(timing)
    assert counted(rig, "decode_wait") == pytest.approx(sum(each.decode_wait_seconds for each in timings))


@pytest.mark.parametrize("kind", ["raw, as large as the input", "raw", "small JPEG", "large JPEG", "many images"])
@pytest.mark.parametrize("held", ["decoder", "device"])
def test_the_stages_of_a_call_add_up_to_its_handling(
    rig: Rig, callers: ThreadPoolExecutor, kind: str, held: str
) -> None:
    images = {
        "raw, as large as the input": [raw(SIZE)],
        "raw": [raw(3 * SIZE)],
        "small JPEG": [jpeg(64, 96)],
        "large JPEG": [jpeg(3000, 4000)],
        "many images": [jpeg(64, 64), raw(SIZE), jpeg(400, 400), raw(50), pb.Image(encoded=b"no image")],
    }[kind]
    in_decoder = held == "decoder" and kind != "raw, as large as the input"  # which no decoder sees
    rig.network.let()
    (rig.decoding if in_decoder else rig.network).hold()
    with grpc.insecure_channel(rig.target) as channel:
        call = send(callers, ImageClassifierStub(channel), *images)
        (rig.decoding if in_decoder else rig.network).begun()
        time.sleep(HELD)
        rig.decoding.go.set()
        rig.network.let()
        timings = [each.timing for each in call.result(TIMEOUT).results]
    rig.wait_until(lambda: rig.gauge("grpc_server_handling_seconds_count", **RPC) == 1)
    handling = rig.gauge("grpc_server_handling_seconds_sum", **RPC)
    assert [total(each) for each in timings] == pytest.approx([handling] * len(images), rel=0.05)
    assert sum(counted(rig, stage) for stage in STAGES) == pytest.approx(handling * len(images), rel=0.05)


def test_the_stages_of_calls_that_press_add_up_to_their_handling(rig: Rig, callers: ThreadPoolExecutor) -> None:
    rig.network.let()
    rig.decoding.hold()
    with grpc.insecure_channel(rig.target) as channel:
        calls = [send(callers, ImageClassifierStub(channel), jpeg(1000, 1000)) for _ in range(24)]
        rig.wait_until(lambda: rig.gauge("glimpse_decode_queue_depth") == 23)
        time.sleep(HELD)
        rig.decoding.go.set()
        timings = [each.result(TIMEOUT).results[0].timing for each in calls]
    rig.wait_until(lambda: rig.gauge("grpc_server_handling_seconds_count", **RPC) == 24)
    handling = rig.gauge("grpc_server_handling_seconds_sum", **RPC)
    assert sum(map(total, timings)) == pytest.approx(handling, rel=0.05)
    assert sum(counted(rig, stage) for stage in STAGES) == pytest.approx(handling, rel=0.05)


def test_the_stages_of_a_piece_of_a_stream_add_up_to_its_handling(rig: Rig, audit: Path) -> None:
    rig.network.let()
    rig.decoding.hold()
    pieces = [pb.ClassifyStreamRequest(id=str(n), request=pb.ClassifyRequest(images=[jpeg(64, 64)])) for n in range(4)]
    with grpc.insecure_channel(rig.target) as channel:
        answers = ImageClassifierStub(channel).ClassifyStream(iter(pieces), timeout=TIMEOUT)
        rig.wait_until(lambda: rig.gauge("glimpse_decode_queue_depth") == 3)
        time.sleep(HELD)
        rig.decoding.go.set()
        timings = {answer.id: answer.response.results[0].timing for answer in answers}
    rig.wait_until(lambda: len(audit.read_text().splitlines()) == 5)  # and one of the stream
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    handled = {line["piece"]: line["seconds"] for line in lines if "piece" in line}
    assert {name: total(each) for name, each in timings.items()} == pytest.approx(handled, rel=0.05)
    assert all(each.receive_seconds == 0 for each in timings.values())


def test_a_piece_that_waits_for_room_spends_its_time_in_admission(audit: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as callers:
        rig = Rig(patch, "--max-images-in-flight=8", "--max-images-per-request=4")
        try:
            rig.network.hold()
            with grpc.insecure_channel(rig.target) as channel:
                stub = ImageClassifierStub(channel)
                request = pb.ClassifyRequest(images=[raw(SIZE)] * 4)
                pieces = [pb.ClassifyStreamRequest(id=str(n), request=request) for n in range(2)]
                answers = callers.submit(lambda: list(stub.ClassifyStream(iter(pieces), timeout=TIMEOUT)))
                rig.wait_until(lambda: rig.held()["waiting"] == 1)  # streams may take six of the eight
                time.sleep(HELD)
                rig.network.let()
                timings = {each.id: each.response.results[0].timing for each in answers.result(TIMEOUT)}
            assert timings["1"].admission_seconds >= HELD > timings["0"].admission_seconds
        finally:
            rig.close()


def test_who_leaves_while_waiting_for_a_decoder_has_waited_for_it(rig: Rig, callers: ThreadPoolExecutor) -> None:
    rig.network.let()
    rig.decoding.hold()
    with grpc.insecure_channel(rig.target) as channel:
        stub = ImageClassifierStub(channel)
        first = send(callers, stub, jpeg(64, 64))
        rig.decoding.begun()
        leaves = stub.Classify.future(pb.ClassifyRequest(images=[jpeg(64, 64)]), timeout=TIMEOUT)
        rig.wait_until(lambda: rig.gauge("glimpse_decode_queue_depth") == 1)
        time.sleep(HELD)
        leaves.cancel()
        rig.wait_until(lambda: rig.gauge("glimpse_decode_queue_depth") == 0)
        rig.wait_until(lambda: counted(rig, "decode_wait") >= HELD)
        rig.decoding.go.set()
        first.result(TIMEOUT)


@pytest.mark.slow
@pytest.mark.parametrize("decoders", ["threads", "processes"])
def test_a_live_server_that_is_pressed_tells_where_all_of_the_time_went(
    start_server: Callable[..., RunningServer], callers: ThreadPoolExecutor, decoders: str
) -> None:
    running = start_server(f"--decode-in={decoders}", "--decode-threads=1")
    running.wait_for("serving")
    image = jpeg(1500, 1500)
    with grpc.insecure_channel(running.target) as channel:
        calls = [send(callers, ImageClassifierStub(channel), image) for _ in range(24)]
        timings = [each.result(TIMEOUT).results[0].timing for each in calls]
    metrics = metrics_of(running)
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(RPC.items()))
    handling = metrics[f"grpc_server_handling_seconds_sum{{{labels}}}"]
    assert sum(map(total, timings)) == pytest.approx(handling, rel=0.2)
    assert max(each.decode_wait_seconds for each in timings) > min(each.decode_seconds for each in timings)


def test_a_histogram_of_stages_counts_as_the_library_s_would() -> None:
    stages = ModelStages((0.1, 1.0))
    stages.observe([("decode", 0.05), ("decode", 0.1), ("decode", 0.5), ("decode", 7.0), ("queue", 1.0)])
    told = {stage: (counts, total) for stage, counts, total in stages.now()}
    assert told["decode"][0] == [2, 1, 1]
    assert told["decode"][1] == pytest.approx(7.65)
    assert told["queue"] == ([0, 1, 0], 1.0)
    assert told["reply"] == ([0, 0, 0], 0.0)


def test_before_any_image_only_the_stages_of_loaded_models_are_there_at_0(rig: Rig) -> None:
    """The stages are there at 0 before the first image, and only those of loaded models."""
    series = [
        (sample.labels["model"], sample.labels["version"], sample.labels["stage"], sample.value)
        for family in rig.server._metrics.registry.collect()
        for sample in family.samples
        if sample.name == "glimpse_stage_seconds_count"
    ]
    assert series == [(*MODEL.values(), stage, 0.0) for stage in STAGES]
    request = pb.ClassifyRequest(model=pb.ModelSelector(name="unheard of"), images=[raw(SIZE)])
    with grpc.insecure_channel(rig.target) as channel, pytest.raises(grpc.RpcError):
        ImageClassifierStub(channel).Classify(request, timeout=TIMEOUT)
    assert rig.gauge("glimpse_stage_seconds_count", model="unheard of", version="", stage="decode") == 0
