"""Whether an image shows any of the classes, from the request to the answer, on the shipped model and real runtimes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glimpse.models import novelty
from glimpse.models.novelty import NoveltyThreshold
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.admission import Admission, Permits
from glimpse.server.decoding.configured import decoding_of
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.domain import Caller, Classification, ClassifyRequest, EncodedImage, RawImage
from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.fair_queue import NO_LANE
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading import LoadOptions, load_model, model_source
from glimpse.server.metrics import Metrics
from glimpse.server.pipeline import Pipeline
from glimpse.server.registry import ModelRegistry
from glimpse.server.request_checks import RequestChecks
from glimpse.server.settings import Settings

GREY = RawImage(32, 32, bytes([127]) * (32 * 32 * 3))
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
    [({"novelty": True}, "options.novelty"), ({"require_known": True}, "options.require_known")],
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
