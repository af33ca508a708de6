"""Drift, on pictures that the shipped model has answered: what has changed raises the index, what has not does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest

from glimpse.models import drift
from glimpse.models.bundle import Bundle
from glimpse.models.calibration.fitting import fit_novelty, reference
from glimpse.models.drift import image_figures
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.answers.drift import Drift, ModelDrift, Seen
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

Pixels = NDArray[np.uint8]
ALARM = 0.25  # of the alerts' rules
EVERY, AT_ONCE = 60.0, 30  # seconds between arrivals, and images of each


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def crops(number: int, seed: int) -> Pixels:
    """Pieces of real photographs, as the model takes them: uint8 ``[N, 32, 32, 3]``."""
    rng = np.random.default_rng(seed)
    photos = [
        Image.fromarray(photo) for photo in (skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket())
    ]
    found = []
    for _ in range(number):
        photo = photos[rng.integers(len(photos))]
        side = int(rng.integers(60, 250))
        left, top = int(rng.integers(photo.width - side)), int(rng.integers(photo.height - side))
        found.append(np.asarray(photo.resize((32, 32), box=(left, top, left + side, top + side))))
    return np.stack(found)


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    settings = Settings(precision="float32")  # type: ignore[call-arg]  # the others have defaults
    loaded = load_model(model_source(settings), LoadOptions.of(settings), Metrics().of)
    yield loaded
    loaded.close()


def seen(model: LoadedModel, pictures: Pixels, size: int = 1_000_000) -> list[Seen]:
    wanted = frozenset({PROBABILITIES, LOGITS})
    found = []
    for start in range(0, len(pictures), 100):
        some = pictures[start : start + 100]
        answers = [model.batcher.submit(each, outputs=wanted) for each in some]
        found += [
            Seen(image_figures(each, 3), size, answer.result().outputs)
            for each, answer in zip(some, answers, strict=True)
        ]
    return found


@pytest.fixture(scope="module")
def bundle(model: LoadedModel) -> Bundle:
    """With the reference of other pieces of the same photographs."""
    before = seen(model, crops(1500, seed=0))
    logits = np.stack([each.outputs[LOGITS] for each in before])
    figures = {name: np.array([getattr(each.figures, name) for each in before]) for name in drift.ImageFigures._fields}
    figures["size"] = np.full(len(before), 1e6)
    threshold = fit_novelty(logits, {})
    made = reference(logits, figures, model.bundle.temperature, threshold)
    return replace(model.bundle, novelty=threshold, drift=made)


@pytest.fixture(scope="module")
def usual(model: LoadedModel) -> list[Seen]:
    return seen(model, crops(60 * AT_ONCE, seed=1))


def arrive(watched: ModelDrift, clock: Clock, images: list[Seen]) -> list[float]:
    """Some images each minute; the highest index at each."""
    found = []
    for start in range(0, len(images), AT_ONCE):
        clock.now += EVERY
        watched.add(images[start : start + AT_ONCE])
        found.append(max(watched.indices().values(), default=0.0))
    return found


def test_an_hour_of_unchanged_traffic_is_no_drift(bundle: Bundle, usual: list[Seen]) -> None:
    clock = Clock()
    found = arrive(ModelDrift(bundle, window=3600, clock=clock), clock, usual)
    assert max(found) < ALARM / 2
    assert max(found[7:]) > 0  # it is compared from 200 images on


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (lambda pixels: pixels // 4, "brightness"),
        (lambda pixels: pixels[..., ::-1], "colour"),
        (lambda pixels: np.asarray([Image.fromarray(p).reduce(4).resize((32, 32)) for p in pixels]), "sharpness"),
    ],
    ids=["dark photos", "blue and red exchanged", "blurred photos"],
)
def test_a_change_is_drift_within_the_window_and_ends_after_it(
    model: LoadedModel, bundle: Bundle, usual: list[Seen], change: Callable[[Pixels], Pixels], figure: str
) -> None:
    """After an hour of usual traffic, of which half is still in the window when the alarm has to come."""
    clock = Clock()
    watched = ModelDrift(bundle, window=3600, clock=clock)
    arrive(watched, clock, usual)
    changed = seen(model, np.ascontiguousarray(change(crops(30 * AT_ONCE, seed=2))))
    assert arrive(watched, clock, changed)[-1] > ALARM
    assert watched.indices()[figure] > ALARM
    assert arrive(watched, clock, usual)[-1] < ALARM / 2


def test_photos_of_another_size_are_drift(bundle: Bundle, usual: list[Seen]) -> None:
    """Also where all of the reference had one size."""
    clock = Clock()
    watched = ModelDrift(bundle, window=3600, clock=clock)
    arrive(watched, clock, [each._replace(size=40_000) for each in usual[:900]])
    found = watched.indices()
    assert found["size"] > ALARM > found["brightness"]


def test_few_images_are_not_compared_and_old_ones_forgotten(bundle: Bundle, usual: list[Seen]) -> None:
    clock = Clock()
    watched = ModelDrift(bundle, window=600, clock=clock)
    watched.add(usual[:199])
    assert watched.indices() == {}
    watched.add(usual[199:200])
    assert watched.indices().keys() == set(drift.FEATURES)
    clock.now += 660
    assert watched.window_images() == 0
    assert watched.indices() == {}


def test_a_model_without_a_reference_has_counts_and_no_index(bundle: Bundle, usual: list[Seen]) -> None:
    watched = Drift(window=600)
    registry = CollectorRegistry()
    registry.register(watched)
    without = replace(bundle, drift=None, novelty=None)
    of_model = watched.of(without)
    assert of_model is not None
    of_model.add(usual[:300])
    text = generate_latest(registry).decode()
    counts = {
        line.split('class="')[1].split('"')[0]: float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("glimpse_answers_total{")
    }
    assert counts.keys() == {label.label for label in bundle.labels} | {"other"}
    assert sum(counts.values()) == 300
    of = '{model="se_resnet20_cifar10",version="1"}'
    assert f"glimpse_image_brightness_count{of} 300.0" in text
    assert f"glimpse_drift_window_images{of} 0.0" in text
    assert "glimpse_drift_stability_index{" not in text


def test_histograms_hold_every_image_once(bundle: Bundle, usual: list[Seen]) -> None:
    watched = Drift(window=600)
    registry = CollectorRegistry()
    registry.register(watched)
    of_model = watched.of(bundle)
    assert of_model is not None
    of_model.add(usual[:100])
    of = {"model": bundle.name, "version": bundle.version}
    for name in ("answer_top_probability", "answer_margin", "answer_entropy", "image_brightness", "image_sharpness"):
        assert registry.get_sample_value(f"glimpse_{name}_bucket", {**of, "le": "+Inf"}) == 100
    total = sum(each.figures.brightness for each in usual[:100])
    assert registry.get_sample_value("glimpse_image_brightness_sum", of) == pytest.approx(total)
    below = sum(each.figures.brightness <= 120 for each in usual[:100])
    assert registry.get_sample_value("glimpse_image_brightness_bucket", {**of, "le": "120.0"}) == below
    verdicts = [
        registry.get_sample_value("glimpse_images_novelty_total", {**of, "verdict": v}) for v in ("known", "unknown")
    ]
    assert sum(filter(None, verdicts)) == 100


def test_nothing_is_counted_unless_it_is_asked_for(bundle: Bundle) -> None:
    assert Drift(window=600, on=False).of(bundle) is None


def test_a_model_that_is_calibrated_anew_is_compared_with_its_new_reference(bundle: Bundle, usual: list[Seen]) -> None:
    """Its name, version and weights stay the same."""
    watching = Drift(on=True)
    without = watching.of(replace(bundle, novelty=None, drift=None))
    assert without is not None
    without.add(usual[:300])
    assert not without.indices()
    assert without.needs == {PROBABILITIES}
    calibrated = watching.of(bundle)
    assert calibrated is not None
    calibrated.add(usual[:300])
    assert calibrated.indices()
    assert calibrated.needs == {PROBABILITIES, LOGITS}
    assert watching.of(replace(bundle)) is calibrated  # loaded once more


def test_models_that_come_and_go_are_forgotten(bundle: Bundle) -> None:
    """New weights of the same version take the place of the old ones; and there is a limit of versions."""
    watched = Drift(window=600)
    watched.of(bundle)
    watched.of(replace(bundle, weights_digest="sha256:other"))
    (labels,) = {
        tuple(s.labels.values()) for m in watched.collect() for s in m.samples if m.name.endswith("window_images")
    }
    assert labels == (bundle.name, bundle.version)
    for version in range(200):
        watched.of(replace(bundle, version=str(version)))
    windows = [m for m in watched.collect() if m.name == "glimpse_drift_window_images"]
    assert len(windows[0].samples) == 128


def test_models_beyond_the_limit_take_no_place_from_those_that_answer(bundle: Bundle, usual: list[Seen]) -> None:
    """They get one once a model has answered nothing for a whole window."""
    clock = Clock()
    watched = Drift(window=600, clock=clock)
    models = [replace(bundle, version=str(version)) for version in range(130)]
    for _ in range(3):
        found = []
        for model in models:
            if (of_model := watched.of(model)) is not None:
                of_model.add(usual[:2])
                found.append(of_model)
        assert [each.identity.version for each in found] == [str(version) for version in range(128)]
    assert {each.window_images() for each in found} == {6}
    clock.now += 599
    assert watched.of(models[128]) is None
    for model in models[1:128]:
        of_model = watched.of(model)
        assert of_model is not None
        of_model.add(usual[:1])
    clock.now += 1.5
    assert watched.of(models[128]) is not None
    assert watched.of(models[129]) is None
    assert watched.of(models[0]) is None


@pytest.mark.ci
@pytest.mark.parametrize("workers", ONE_PROCESS_AND_TWO_WORKERS)
def test_a_server_counts_what_it_answers_and_returns_nothing_more(workers: int) -> None:
    """Of several workers the counts are added up. Images that are refused are not counted; logits are not returned."""
    running = RunningServer("--drift", "--novelty", f"--workers={workers}", "--http-port=0")
    try:
        running.wait_for("serving", seconds=280)
        photos = [pb.Image(raw=pb.RawPixels(height=32, width=32, data=each.tobytes())) for each in crops(480, seed=4)]
        for start in range(0, len(photos), 12):
            # Each connection may be another worker's.
            with grpc.insecure_channel(running.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                request = pb.ClassifyRequest(images=[*photos[start : start + 12], pb.Image(encoded=b"none")])
                answer = ImageClassifierStub(channel).Classify(request, timeout=TIMEOUT)
            assert all(each.novelty.threshold for each in answer.results[:-1])
            assert not answer.results[-1].HasField("novelty")
        metrics = metrics_of(running)
        of = 'model="se_resnet20_cifar10",version="1"'
        answers = {name: value for name, value in metrics.items() if name.startswith("glimpse_answers_total{")}
        assert sum(answers.values()) == 480
        assert len(answers) == 11
        assert metrics[f"glimpse_drift_window_images{{{of}}}"] == 480
        assert metrics[f"glimpse_image_pixels_count{{{of}}}"] == 480
        verdicts = [value for name, value in metrics.items() if name.startswith("glimpse_images_novelty_total{")]
        assert len(verdicts) == 2
        assert sum(verdicts) == 480
        # Pieces of three photographs are nothing like CIFAR-10.
        index = {name: value for name, value in metrics.items() if name.startswith("glimpse_drift_stability_index{")}
        assert max(index.values()) > ALARM
    finally:
        running.close()
