"""Where an image is decoded: costly ones in processes that are ended in time, all others where they always were."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding import isolated
from glimpse.server.decoding.prepare import prepare
from glimpse.server.decoding.where import Decoding
from glimpse.server.domain import EncodedImage, RawImage
from glimpse.server.errors import InvalidImageError, Reason
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.hostile import bombs, scan_bombs
from tests.server.hostile.batches import ENVIRONMENT
from tests.server.hostile.conftest import eventually
from tests.server.hostile.memory import needs_proc, processes
from tests.server.hostile.seeds import picture, saved
from tests.server.test_isolated_server import decoders_of
from tests.variations import mostly_in_ci

LIMITS = ImageLimits(max_bytes=12 << 20, max_pixels=25_000_000, max_jpeg_pixels=100_000_000, reducing_gap=2.0)
RECIPE = Recipe(height=224, width=224, geometry="crop")
SMALL = EncodedImage(saved(picture(300, 200), "JPEG"))
WEBP = EncodedImage(bombs.one_colour_webp(5000, 5000))
REFINED = EncodedImage(scan_bombs.refined(5000, 5000, 32))


@contextmanager
def decoding(*, in_processes: bool = False, workers: int = 2, seconds: float = 60.0) -> Iterator[Decoding]:
    made = Decoding(LIMITS, in_processes=in_processes, workers=workers, memory_bytes=700 << 20, seconds=seconds)
    try:
        made.start()
        yield made
    finally:
        made.close()


def decoders() -> set[int]:
    """Decoder processes of this one: also those that another test has left behind."""
    found = set()
    for pid in processes(os.getpid()):
        try:
            if b"glimpse.server.decoding.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:  # it has ended meanwhile
            continue
    return found


@needs_proc
def test_processes_are_started_for_expensive_images_alone() -> None:
    before = decoders()
    with decoding() as made:
        assert not made.cost(SMALL, RECIPE).expensive
        assert np.array_equal(made(SMALL, RECIPE).pixels, prepare(SMALL, RECIPE, LIMITS).pixels)
        assert decoders() == before
        assert made.cost(WEBP, RECIPE).expensive
        assert np.array_equal(made(WEBP, RECIPE, expensive=True).pixels, prepare(WEBP, RECIPE, LIMITS).pixels)
        assert len(decoders() - before) == 1
    assert decoders() <= before


@needs_proc
@pytest.mark.parametrize(("workers", "expensive"), mostly_in_ci([(1, 1), (2, 1), (3, 1), (4, 2)], (1, 1), (4, 2)))
def test_expensive_images_have_half_as_many_decoders(workers: int, expensive: int) -> None:
    before = decoders()
    with decoding(workers=workers) as made:
        assert made.expensive_workers == expensive
        assert decoders() <= before
    with decoding(workers=workers, in_processes=True) as made:
        assert made.expensive_workers == expensive
        assert len(decoders() - before) == workers


@pytest.mark.parametrize("in_processes", [False, True])
@pytest.mark.parametrize("image", [WEBP, REFINED], ids=["a WebP", "a JPEG"])
def test_a_costly_image_is_given_up_in_time_in_every_mode(image: EncodedImage, *, in_processes: bool) -> None:
    """It takes a second or so; the limit is a twentieth of one."""
    with decoding(in_processes=in_processes, seconds=0.05) as made, structlog.testing.capture_logs() as logs:
        assert made.cost(image, RECIPE).expensive
        with pytest.raises(InvalidImageError) as refused:
            made(image, RECIPE, expensive=True)
        assert refused.value.reason is Reason.DECODER_FAILED
        assert "more than 0.05 s" in refused.value.message
        assert made.restarts == 1
    assert [line["event"] for line in logs] == ["decoder process replaced"]


def test_without_processes_expensive_images_are_decoded_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, which has none; it says so, because nothing can end a thread."""
    monkeypatch.setattr(isolated, "possible", lambda: False)
    with structlog.testing.capture_logs() as logs, decoding() as made:
        assert np.array_equal(made(WEBP, RECIPE, expensive=True).pixels, prepare(WEBP, RECIPE, LIMITS).pixels)
        assert made.restarts == 0
    assert "without a limit on time" in logs[0]["event"]
    with pytest.raises(RuntimeError, match="GLIMPSE_DECODE_IN"), decoding(in_processes=True):
        pass


def test_raw_pixels_are_costly_where_they_are_many() -> None:
    with decoding() as made:
        assert not made.cost(RawImage(2000, 2000, b""), RECIPE).expensive
        assert made.cost(RawImage(30_000, 30_000, b""), RECIPE).expensive


LACKING = """
import resource, sys
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import InvalidImageError
from tests.server.hostile import bombs
from tests.server.hostile.seeds import seeds

limits = ImageLimits(max_bytes=12 << 20, max_pixels=25_000_000)
recipe = Recipe(height=224, width=224, geometry="crop")
files = {
    "PNG": bombs.zeros(5000, 5000, 8, 2),
    "GIF": bombs._gif((5000, 5000), (1, 1)),
    "JPEG": bombs.jpeg(5000, 5000),
    "BMP": None,
}
files["BMP"] = bombs.bmp(5000, 5000, 1, bytes(628 * 5000), palette=bytes(8))
for data in seeds().values():  # what is loaded at the first use is loaded now
    try:
        prepare(EncodedImage(data), recipe, limits)
    except InvalidImageError:
        pass
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (24 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for name, data in files.items():
    try:
        prepare(EncodedImage(data), recipe, limits)
    except InvalidImageError as error:
        print(name, error.reason.value, error.message)
    else:
        print(name, "decoded")
"""


@needs_proc
def test_a_lack_of_memory_is_told_as_that_and_not_as_a_damaged_file() -> None:
    """In a process that may have 24 MiB more; each of these pictures takes 100."""
    run = subprocess.run(
        [sys.executable, "-c", LACKING], cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, check=True
    )
    told = dict(line.split(" ", 1) for line in run.stdout.decode().splitlines())
    assert {name: words.split()[0] for name, words in told.items()} == dict.fromkeys(told, "DECODER_FAILED")
    assert all("not enough memory" in words for words in told.values())
    assert len(told) == 4


@pytest.mark.ci
def test_a_small_image_is_answered_while_costly_ones_are_decoded(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """With one decoder thread: each costly image alone would hold it."""
    running = start_server("--decode-threads=1")
    running.wait_for("serving")
    costly = pb.ClassifyRequest(images=[pb.Image(encoded=bombs.zeros(4000, 4000))] * 8)
    small = pb.ClassifyRequest(images=[pb.Image(encoded=cat_photo.read_bytes())])
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        assert decoders_of(running) == set()
        call: Any = stub.Classify.future(costly, timeout=TIMEOUT)
        answered = 0
        while not call.done():
            assert stub.Classify(small, timeout=TIMEOUT).results[0].predictions[0].label == "cat"
            answered += 1
        assert answered >= 3  # behind the costly ones there would be one answer, when all of them are done
        assert len(decoders_of(running)) == 1
        assert not any(result.HasField("error") for result in call.result().results)
        assert metrics_of(running)["glimpse_decoders_overdue"] == 0
    running.terminate()
    assert running.exit_code() == 0


def test_hanging_decoder_threads_are_told_and_end_liveness_if_all_do(
    start_server: Callable[..., RunningServer], cat_photo: Path, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    running = start_server(
        "--decode-threads=2",
        "--decode-seconds=0.5",
        environment={"HANG_DECODERS_WHILE": str(hang)},
        module="tests.server.hanging",
    )
    running.wait_for("serving")
    photo = pb.ClassifyRequest(images=[pb.Image(encoded=cat_photo.read_bytes())])
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        assert stub.Classify(photo, timeout=TIMEOUT).results[0].predictions
        hang.touch()
        first = stub.Classify.future(photo, timeout=TIMEOUT)
        told = running.wait_for("decoder threads overdue", seconds=TIMEOUT)
        assert (told["threads"], told["of"], told["longer_than"]) == (1, 2, 0.5)
        assert metrics_of(running)["glimpse_ready"] == 1  # the other one works
        second = stub.Classify.future(photo, timeout=TIMEOUT)
        detail = running.wait_for("stuck", seconds=TIMEOUT)["detail"]
        assert "Each of the 2 decoder threads has worked on one image for more than 0.5 s" in detail
        assert "other images wait for a decoder, and the health checks fail" in detail
        assert "refused" not in detail
        assert eventually(lambda: metrics_of(running)["glimpse_ready"], lambda ready: ready == 0) == 0
        assert metrics_of(running)["glimpse_decoders_overdue"] == 2
        hang.unlink()
        running.wait_for("no longer stuck", seconds=TIMEOUT)
        for call in (first, second):
            assert call.result().results[0].predictions
        assert eventually(lambda: metrics_of(running)["glimpse_ready"], lambda ready: ready == 1) == 1
    running.terminate()
    assert running.exit_code() == 0
