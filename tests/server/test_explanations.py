"""Why an answer is what it is, as callers see it: maps over every protocol, their place in the photo, their cost."""

from __future__ import annotations

import asyncio
import io
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse import Classifier
from glimpse.client import Client, Explanation, InvalidRequestError, OverloadedError
from glimpse.models.decoding.cost import Cost
from glimpse.models.outputs import LOGITS
from glimpse.server.answers import occlusion
from glimpse.server.batching.waiting import Answer
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.domain import Caller
from glimpse.server.errors import DeadlineExceededError, Reason
from glimpse.server.errors import OverloadedError as ServerFullError
from glimpse.server.fair_queue import NO_LANE, Ahead
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.request_checks import RequestChecks
from tests.conftest import RunningServer
from tests.models.graph_makers import SIZE, details, onnx_model, saved
from tests.server.conftest import metrics_of
from tests.variations import with_two_workers_too

COUNTS = 1 + occlusion.COPIES  # images that one counts for which is explained by occlusion


def numbers(found: Explanation | None) -> NDArray[np.float64]:
    """The numbers of a map, ``[rows, columns]``."""
    assert found is not None
    values = np.frombuffer(found.values, np.uint8).reshape(found.rows, found.columns)
    return found.lowest + (found.highest - found.lowest) * values / 255


@with_two_workers_too
def test_a_client_gets_the_maps_that_it_asks_for(start_server: Callable[..., RunningServer], cat_photo: Path) -> None:
    """In a call, on a stream and beside images that ask for none; by both methods, and of any class."""
    server = start_server("--precision=float32")
    server.wait_for("serving")
    with Client(server.target) as client:
        assert client.describe().explanations == ("cam", "occlusion")
        assert client.classify(cat_photo).explanation is None
        found = client.classify(cat_photo, explain="auto", outputs=["logits"])
        assert found.logits is not None
        first = found.explanation
        assert first is not None
        assert (first.method, first.index, first.label) == ("cam", found.predictions[0].index, "cat")
        # The 8 bits of a number are 1/255 of the range apart.
        step = (first.highest - first.lowest) / 255
        assert numbers(first).mean() == pytest.approx(found.logits[first.index], abs=step)
        dog = client.classify(cat_photo, explain="cam", explain_class="dog").explanation
        assert dog is not None
        assert dog.label == "dog"
        assert numbers(dog).mean() == pytest.approx(found.logits[dog.index], abs=(dog.highest - dog.lowest) / 255)
        covered = client.classify(cat_photo, explain="occlusion").explanation
        assert covered is not None
        assert (covered.method, covered.rows, covered.columns, covered.area) == ("occlusion", 7, 7, first.area)
        # Both say that it is the cat in the middle, and not a corner.
        for each in (first, covered):
            grid = numbers(each)
            assert grid[2:-2, 2:-2].mean() > grid[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
        streamed = dict(client.classify_many(((name, cat_photo) for name in "abc"), explain="auto"))
        for result in streamed.values():
            np.testing.assert_allclose(numbers(result.explanation), numbers(first), rtol=0, atol=2 * step)


def test_the_map_covers_what_the_network_saw(server: RunningServer, cat_photo: Path) -> None:
    """The centre of a photo of 451 x 300, whichever way the camera was held."""
    with Client(server.target) as client:
        upright = client.classify(cat_photo, explain="cam").explanation
        assert upright is not None
        with Image.open(cat_photo) as photo:
            pixels = client.classify(np.asarray(photo), explain="cam").explanation
            file = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned to the right by whoever shows it
            photo.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=95, exif=exif)
        turned = client.classify(file.getvalue(), explain="cam").explanation
    assert (upright.area.top, upright.area.bottom) == (0, 1)
    assert upright.area.left == pytest.approx((451 - 300) / 2 / 451, abs=0.03)
    assert upright.area.right == pytest.approx(1 - upright.area.left, abs=0.03)
    assert turned is not None
    assert turned.area == upright.area
    assert pixels is not None
    assert pixels.area == upright.area
    for each in (turned, pixels):
        assert np.corrcoef(numbers(each).ravel(), numbers(upright).ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("options", "reason", "message"),
    [
        ({"explain": "gradient"}, "CANNOT_EXPLAIN", "must be one of auto, cam, occlusion. Received: 'gradient'"),
        ({"explain": "auto", "explain_class": "unicorn"}, "UNKNOWN_CLASS", "no class or group 'unicorn'"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    server: RunningServer, cat_photo: Path, options: dict[str, Any], reason: str, message: str
) -> None:
    with Client(server.target) as client, pytest.raises(InvalidRequestError, match=message) as refused:
        client.classify(cat_photo, **options)
    assert refused.value.reason == reason
    assert refused.value.field in {"options.explain", "options.explain_class"}


def test_over_http_the_map_is_a_list_of_rows(server: RunningServer, cat_photo: Path) -> None:
    with Client(server.target) as client:
        expected = client.classify(cat_photo, explain="auto").explanation
    assert expected is not None
    (told,) = post(server, cat_photo.read_bytes(), explain="auto")["results"]
    found = told["explanation"]
    assert (found["label"], found["method"], found["rows"], found["columns"]) == ("cat", "cam", 8, 8)
    assert np.abs(np.ravel(found["values"]) - np.frombuffer(expected.values, np.uint8).astype(int)).max() <= 1
    assert found["area"] == pytest.approx(
        {side: getattr(expected.area, side) for side in ("left", "top", "right", "bottom")}
    )
    assert "explanation" not in post(server, cat_photo.read_bytes())["results"][0]


def post(server: RunningServer, body: bytes, **query: str) -> Any:
    url = f"http://{server.http}/classify?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
        return json.load(response)


def test_occlusion_counts_as_fifty_images(start_server: Callable[..., RunningServer], cat_photo: Path) -> None:
    """In the caller's rate, and the network is computed as often; a class activation map counts as one."""
    server = start_server("--rate-limit=0.001", f"--rate-burst={COUNTS + 5}")
    server.wait_for("serving")

    def computed() -> float:
        return metrics_of(server)["glimpse_batch_size_sum"]

    with Client(server.target) as client:
        begun = computed()
        client.classify(cat_photo, explain="occlusion")
        assert computed() - begun == COUNTS
        for _ in range(3):
            assert client.classify(cat_photo, explain="cam").explanation is not None
        assert computed() - begun == COUNTS + 3
        with pytest.raises(OverloadedError) as refused:
            client.classify(cat_photo, explain="occlusion", timeout=1)
        assert refused.value.reason == "RATE_LIMITED"


def test_occlusion_beyond_the_images_of_a_request_is_refused(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    server = start_server(f"--max-images-per-request={COUNTS - 1}")
    server.wait_for("serving")
    with Client(server.target) as client:
        with pytest.raises(InvalidRequestError, match=r"counts as 50.*at most 49: 0 such images") as refused:
            client.classify(cat_photo, explain="occlusion")
        assert (refused.value.reason, refused.value.field) == ("TOO_MANY_IMAGES", "options.explain")
        assert client.classify(cat_photo, explain="auto").explanation is not None


def test_what_occlusion_computes_counts_for_whether_there_is_time() -> None:
    """Where others wait who could use it: a batch of one image takes a tenth of a second here."""
    nothing = Ahead(0, 0)
    decoders: Any = SimpleNamespace(waiting=lambda: nothing, ahead=lambda _: nothing, expected=lambda _: 0.0)
    queue = SimpleNamespace(depth=lambda: 1, ahead=lambda _: 1, seconds_to_compute=lambda images: images / 10)
    caller = Caller(NO_LANE, time.monotonic() + 2)
    job: Any = SimpleNamespace(caller=caller, model=SimpleNamespace(batcher=queue))
    registry: Any = None
    checks = RequestChecks(registry, decoders, Metrics(), max_images=64, geometries=frozenset())
    costs = [Cost(1, 1, 1, expensive=False)]
    checks.check_in_time(costs, job, 1)
    with pytest.raises(DeadlineExceededError, match=r"1 image is ahead of it, and the answer is expected in 5\.1"):
        checks.check_in_time(costs, job, COUNTS)


class Queue:
    """Computes what it is given at once: the score of the only class is the sum of the red pixels."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def submit(self, pixels: NDArray[np.uint8], *, future: Future[Answer], **_: Any) -> Future[Answer]:
        self.seen.append(pixels)
        if future.set_running_or_notify_cancel():
            future.set_result(Answer({LOGITS: pixels[..., 0].sum(dtype=np.float32, keepdims=True)[0]}, 0.0, 0.0, 1))
        return future


@pytest.mark.parametrize("shape", [(28, 56, 4), (5, 9, 4)])
def test_each_part_is_covered_by_the_mean_colour(shape: tuple[int, int, int]) -> None:
    """The mask of padding, the fourth channel, stays; and what is red is found."""
    pixels = np.zeros(shape, np.uint8)
    pixels[..., 3] = 1
    height, width = shape[:2]
    pixels[: height // 5, -(width // 5) :, 0] = 255
    queue, decoders = Queue(), DecodePool(1)
    try:
        scores = asyncio.run(occlusion.occluded(pixels, 3, Caller(NO_LANE), queue, decoders))  # type: ignore[arg-type]
    finally:
        decoders.close()
    assert scores.shape == (occlusion.SIDE, occlusion.SIDE, 1)
    assert len(queue.seen) == occlusion.COPIES
    lost = pixels[..., 0].sum() - scores[..., 0]
    assert np.unravel_index(lost.argmax(), lost.shape)[0] <= 1
    assert np.unravel_index(lost.argmax(), lost.shape)[1] >= occlusion.SIDE - 2
    covered = np.zeros(shape[:2], bool)
    for each in queue.seen:
        assert (each[..., 3] == 1).all()
        changed = (each != pixels).any(axis=-1)
        assert changed.any()
        covered |= changed
    assert covered.all()


def test_copies_that_cannot_be_computed_end_the_request() -> None:
    class Full(Queue):
        def submit(self, pixels: NDArray[np.uint8], *, future: Future[Answer], **_: Any) -> Future[Answer]:
            raise ServerFullError(Reason.QUEUE_FULL, "full")

    decoders = DecodePool(1)
    try:
        with pytest.raises(ServerFullError, match="full"):
            asyncio.run(
                occlusion.occluded(np.zeros((8, 8, 3), np.uint8), 3, Caller(NO_LANE), Full(), decoders)  # type: ignore[arg-type]
            )
    finally:
        decoders.close()


def test_a_queue_that_fills_up_meanwhile_ends_the_request() -> None:
    """It is computing some of the copies already, whose answers come later or never."""

    class FillsUp(Queue):
        def submit(self, pixels: NDArray[np.uint8], *, future: Future[Answer], **_: Any) -> Future[Answer]:
            if len(self.seen) == occlusion.COPIES // 2:
                raise ServerFullError(Reason.QUEUE_FULL, "full")
            self.seen.append(pixels)
            assert future.set_running_or_notify_cancel()
            return future

    async def run(queue: Queue, decoders: DecodePool) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        async with asyncio.timeout(60):
            await occlusion.occluded(pixels, 3, Caller(NO_LANE), queue, decoders)  # type: ignore[arg-type]

    decoders = DecodePool(1)
    try:
        with pytest.raises(ServerFullError, match="full"):
            asyncio.run(run(FillsUp(), decoders))
    finally:
        decoders.close()


def test_a_graph_of_another_framework_is_explained_by_occlusion(tmp_path: Path) -> None:
    file = saved(onnx_model(), tmp_path / "graph", labels=None, recipe=None)
    details(tmp_path)
    image = np.random.default_rng(3).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    with Classifier.load(file, labels=tmp_path / "labels.txt", recipe=tmp_path / "recipe.toml") as classifier:
        assert classifier.describe().explanations == ("occlusion",)
        found = classifier.classify(image, explain="auto")
        assert found.explanation is not None
        assert (found.explanation.method, found.explanation.index) == ("occlusion", found.predictions[0].index)
        with pytest.raises(InvalidRequestError, match="has no class activation maps"):
            classifier.classify(image, explain="cam")
