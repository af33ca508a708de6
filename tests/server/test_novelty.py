"""Whether an image shows any of the classes, from the request to the answer, on the shipped model and real runtimes."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glimpse.models import bundle as bundles
from glimpse.models.errors import BundleError
from glimpse.models.novelty import novelty
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import FEATURE_STATISTICS, LOGITS, PROBABILITIES
from glimpse.models.serving import by_name, load_bundle, serving_outputs
from glimpse.models.train.reading import network_input
from glimpse.server.admission import Admission, Permits
from glimpse.server.decoding.configured import decoding_of
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.domain import Caller, Classification, ClassifyRequest, EncodedImage, RawImage
from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.fair_queue import NO_LANE
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.pipeline import Pipeline
from glimpse.server.registry import ModelRegistry
from glimpse.server.request_checks import RequestChecks
from glimpse.server.runtime import simulated
from glimpse.server.settings import Settings
from tests.server.building import build
from tools.foreign_pictures import KINDS, make

GREY = RawImage(32, 32, bytes([127]) * (32 * 32 * 3))
NOISE = RawImage(32, 32, np.random.default_rng(0).integers(0, 256, 32 * 32 * 3, np.uint8).tobytes())
BROKEN = EncodedImage(b"no image")


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    settings = Settings(precision="float32")  # type: ignore[call-arg]  # the others have defaults
    loaded = load_model(model_source(settings), LoadOptions.of(settings), Metrics().of)
    yield loaded
    loaded.close()


def classify(model: LoadedModel, request: ClassifyRequest, *, default: bool = False) -> Classification:
    """The answer of a server that judges all images where `default` is set."""

    async def answer() -> Classification:
        settings, registry = Settings(), ModelRegistry()  # type: ignore[call-arg]  # as above
        registry.put(model)
        decoders = DecodePool(1, expensive=1, spare=0)
        admission = Admission(Permits(64, 1 << 30, 1 << 30), streams=1, retry_after=lambda *_: 0.0)
        metrics = Metrics()
        checks = RequestChecks(registry, decoders, metrics, max_images=8, geometries=frozenset(), novelty=default)
        pipeline = Pipeline(admission, decoders, decoding_of(settings), metrics, checks)
        try:
            return await pipeline.classify(request, Caller(NO_LANE))
        finally:
            decoders.close()

    return asyncio.run(answer())


def with_threshold(model: LoadedModel, threshold: float) -> LoadedModel:
    return replace(model, bundle=replace(model.bundle, novelty=NoveltyThreshold(score="entropy", threshold=threshold)))


def test_each_image_of_a_request_gets_its_own_verdict(model: LoadedModel, cat_photo: Path) -> None:
    """The score is that of the logits which the model gives; an image with an error has none."""
    cat = EncodedImage(cat_photo.read_bytes())
    request = ClassifyRequest((cat, BROKEN, GREY), outputs=frozenset({PROBABILITIES, LOGITS}), novelty=True)
    results = classify(with_threshold(model, 1.0), request).results
    assert results[1].novelty is None
    assert results[1].error is not None
    for result in (results[0], results[2]):
        assert result.novelty is not None
        expected = novelty.score("entropy", result.outputs[LOGITS][np.newaxis])[0]
        assert result.novelty.score == pytest.approx(expected)
        assert result.novelty.known == (expected <= 1.0)
        assert len(result.predictions) == 5


def test_what_does_not_ask_gets_nothing_and_costs_no_output(model: LoadedModel) -> None:
    """Logits are neither computed for it nor returned."""
    (result,) = classify(with_threshold(model, 1.0), ClassifyRequest((GREY,))).results
    assert result.novelty is None
    assert result.outputs == {}


def test_the_logits_of_a_verdict_are_not_returned(model: LoadedModel) -> None:
    (result,) = classify(with_threshold(model, 1.0), ClassifyRequest((GREY,), novelty=True)).results
    assert result.novelty is not None
    assert result.outputs == {}


@pytest.mark.parametrize(("threshold", "classes"), [(-1.0, 0), (99.0, 5)])
def test_only_known_images_get_classes_where_that_is_required(
    model: LoadedModel, threshold: float, classes: int
) -> None:
    (result,) = classify(with_threshold(model, threshold), ClassifyRequest((GREY,), require_known=True)).results
    assert len(result.predictions) == classes
    assert result.novelty is not None
    assert result.novelty.known == bool(classes)


@pytest.mark.parametrize(("asked", "told"), [(None, True), (True, True), (False, False)])
def test_a_request_may_say_otherwise_than_the_default(model: LoadedModel, asked: bool | None, told: bool) -> None:  # noqa: FBT001
    answer = classify(with_threshold(model, 1.0), ClassifyRequest((GREY,), novelty=asked), default=True)
    assert (answer.results[0].novelty is not None) == told


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"novelty": True}, "novelty"), ({"require_known": True}, "require_known")],
)
def test_a_model_without_a_threshold_says_what_to_run(model: LoadedModel, asked: dict[str, bool], field: str) -> None:
    without = replace(model, bundle=replace(model.bundle, novelty=None))
    with pytest.raises(InvalidRequestError, match="Fit one with: python") as refused:
        classify(without, ClassifyRequest((GREY,), **asked))  # type: ignore[arg-type]  # the two flags
    assert (refused.value.reason, refused.value.field) == (Reason.NO_NOVELTY_THRESHOLD, field)


def test_a_model_without_a_threshold_answers_as_before_by_default(model: LoadedModel) -> None:
    """What a server judges by default cannot fail the requests for other models."""
    without = replace(model, bundle=replace(model.bundle, novelty=None))
    (result,) = classify(without, ClassifyRequest((GREY,)), default=True).results
    assert result.novelty is None
    assert len(result.predictions) == 5


def test_the_statistics_of_an_inner_layer_are_for_the_score_alone(model: LoadedModel) -> None:
    """No caller can name them, and no description tells of them."""
    assert FEATURE_STATISTICS not in model.outputs
    with pytest.raises(InvalidRequestError, match="outputs must be some of"):
        classify(model, ClassifyRequest((GREY,), outputs=frozenset({FEATURE_STATISTICS})))


def test_the_shipped_score_is_that_of_the_network_in_keras(model: LoadedModel, cat_photo: Path) -> None:
    """Whichever runtime computes; and it is told without the statistics."""
    fitted = model.bundle.novelty
    assert fitted is not None
    assert fitted.distance is not None
    assert fitted.logistic is not None
    cat = RawImage(32, 32, network_input(cat_photo.read_bytes(), model.bundle.recipe).tobytes())
    images = (cat, GREY, NOISE)
    results = classify(model, ClassifyRequest(images, novelty=True)).results
    assembly = load_bundle(model.bundle)
    network = serving_outputs(
        assembly, model.bundle.recipe, model.bundle.temperature, statistics=model.bundle.statistics_layer
    )
    pixels = np.stack([np.frombuffer(each.data, np.uint8).reshape(32, 32, 3) for each in images])
    expected = fitted.scores({name: np.asarray(each) for name, each in by_name(network, network(pixels)).items()})
    found = [each.novelty.score for each in results if each.novelty is not None]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert [each.novelty.known for each in results if each.novelty is not None] == [True, False, False]
    assert all(each.outputs == {} for each in results)


def test_a_score_that_was_fitted_on_another_network_is_refused(tmp_path: Path) -> None:
    """When it is loaded, and not when the first image is judged."""
    shutil.copytree(bundles.EMBEDDED_DEFAULT, tmp_path / "mine")
    path = tmp_path / "mine" / bundles.DESCRIPTION
    values = json.loads(path.read_text())
    values["novelty"]["logistic"] |= {"features": 3, "weights": base64.b64encode(bytes(12)).decode()}
    path.write_text(json.dumps(values))
    settings = Settings(weights=str(tmp_path / "mine"), precision="float32")  # type: ignore[call-arg]  # as above
    with pytest.raises(BundleError, match="fitted on an embedding of 3 numbers, and the network's has 112"):
        load_model(model_source(settings), LoadOptions.of(settings), Metrics().of)


def test_a_simulated_device_tells_no_novelty_that_looks_into_the_network() -> None:
    """It computes nothing, so that there is nothing to look at."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    assert shipped.novelty is not None
    plain = NoveltyThreshold(score="entropy", threshold=1.0)
    assert simulated.renamed(shipped).novelty is None
    assert simulated.renamed(replace(shipped, novelty=plain)).novelty == plain


@pytest.mark.ci
def test_the_shipped_model_tells_far_images_from_its_classes(cifar10_test: Path, tmp_path: Path) -> None:
    """Textures, drawings, noise and pieces of photographs by an AUROC of 0.95; 95% of the test images pass.

    Half of the pictures are of those that the score was fitted on.
    """
    bundle = bundles.read(bundles.EMBEDDED_DEFAULT)
    assert bundle.novelty is not None
    make(tmp_path, 150)
    sets = {kind: [path.read_bytes() for path in sorted((tmp_path / kind).iterdir())] for kind in KINDS}
    with zipfile.ZipFile(cifar10_test) as archive:
        sets["known"] = [archive.read(name) for name in sorted(archive.namelist())[::5] if name.endswith(".jpg")]
    runtime = build(bundle, "openvino", precision="float32").runtime
    scores = {}
    for name, files in sets.items():
        pixels = np.stack([network_input(data, bundle.recipe) for data in files])
        parts = [runtime(pixels[start : start + 50], bundle.novelty.needs) for start in range(0, len(pixels), 50)]
        outputs = {each: np.concatenate([part[each] for part in parts]) for each in bundle.novelty.needs}
        scores[name] = bundle.novelty.scores(outputs)
    known = scores.pop("known")
    assert 0.03 < (known > bundle.novelty.threshold).mean() < 0.07
    found = {name: novelty.auroc(known, each) for name, each in scores.items()}
    assert min(found.values()) >= 0.95, found
