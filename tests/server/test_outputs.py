"""A model's named outputs, from the request to its answer, on the shipped model and a real runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS, EMBEDDING, LOGITS, PROBABILITIES
from glimpse.server.admission import Admission, Permits
from glimpse.server.answers import explanations
from glimpse.server.decoding.configured import decoding_of
from glimpse.server.decoding.pool import DecodePool
from glimpse.server.domain import Caller, ClassifyRequest, EncodedImage, Explain, ImageResult, RawImage
from glimpse.server.errors import DeadlineExceededError, InvalidRequestError, OverloadedError, Reason
from glimpse.server.fair_queue import NO_LANE
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.pipeline import Pipeline
from glimpse.server.registry import ModelRegistry
from glimpse.server.request_checks import RequestChecks
from glimpse.server.settings import Settings


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    settings = Settings(precision="float32")  # type: ignore[call-arg]  # the others have defaults
    loaded = load_model(model_source(settings), LoadOptions.of(settings), Metrics().of)
    yield loaded
    loaded.close()


def classify(model: LoadedModel, *requests: ClassifyRequest) -> list[ImageResult]:
    """The answers to the first image of each request, all sent at once."""

    async def answers() -> list[ImageResult]:
        settings, registry = Settings(), ModelRegistry()  # type: ignore[call-arg]  # as above
        registry.put(model)
        decoders = DecodePool(1, expensive=1, spare=0)
        admission = Admission(Permits(64, 1 << 30, 1 << 30), streams=1, retry_after=lambda *_: 0.0)
        metrics = Metrics()
        checks = RequestChecks(registry, decoders, metrics, max_images=2, geometries=frozenset())
        pipeline = Pipeline(admission, decoders, decoding_of(settings), metrics, checks)
        try:
            found = await asyncio.gather(*(pipeline.classify(request, Caller(NO_LANE)) for request in requests))
        finally:
            decoders.close()
        return [each.results[0] for each in found]

    return asyncio.run(answers())


def test_a_request_gets_the_outputs_that_it_names(model: LoadedModel, cat_photo: Path) -> None:
    """Beside one that names none: that one gets predictions alone, and the same ones."""
    assert model.outputs == {PROBABILITIES, LOGITS, EMBEDDING}
    image = (EncodedImage(cat_photo.read_bytes()),)
    plain, both, logits = classify(
        model,
        ClassifyRequest(image, top_k=10),
        ClassifyRequest(image, top_k=10, outputs=model.outputs),
        ClassifyRequest(image, outputs=frozenset({LOGITS})),
    )
    assert plain.outputs == {}
    assert plain.predictions[0].label == "cat"
    assert both.outputs.keys() == {LOGITS, EMBEDDING}
    assert logits.outputs.keys() == {LOGITS}
    assert logits.predictions == ()
    np.testing.assert_allclose(both.outputs[LOGITS], logits.outputs[LOGITS], rtol=1e-3, atol=1e-4)
    scaled = np.exp(both.outputs[LOGITS] / model.bundle.temperature)
    probabilities = {each.index: each.probability for each in both.predictions}
    np.testing.assert_allclose([probabilities[i] for i in range(10)], scaled / scaled.sum(), atol=1e-5)
    np.testing.assert_allclose(
        [each.probability for each in plain.predictions], [each.probability for each in both.predictions], atol=1e-5
    )


@pytest.mark.parametrize(("side", "shared"), [(32, True), (200, False)])
def test_an_image_that_waits_keeps_no_larger_ones_in_memory(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, side: int, *, shared: bool
) -> None:
    """It is the network's input as it is, and the other image of its message may have to be resized."""
    sizes = (32 * 32 * 3, side * side * 3)
    message = memoryview(bytes(sum(sizes)))
    images = (RawImage(32, 32, message[: sizes[0]]), RawImage(side, side, message[sizes[0] :]))
    queued = list[NDArray[np.uint8]]()
    submit = model.batcher.submit

    def noted(pixels: NDArray[np.uint8], **more: Any) -> Any:
        queued.append(pixels)
        return submit(pixels, **more)

    monkeypatch.setattr(model.batcher, "submit", noted)
    classify(model, ClassifyRequest(images))
    assert len(queued) == 2
    assert any(np.may_share_memory(each, np.frombuffer(message, np.uint8)) for each in queued) == shared


@pytest.mark.parametrize(
    ("outputs", "error"), [(frozenset(), ValueError), (DEFAULT_OUTPUTS | {"attention"}, InvalidRequestError)]
)
def test_an_output_that_the_model_lacks_is_refused(
    model: LoadedModel, cat_photo: Path, outputs: frozenset[str], error: type[Exception]
) -> None:
    with pytest.raises(
        error, match=r"outputs must be some of embedding, logits, probabilities. Received: (none|'attention')"
    ):
        classify(model, ClassifyRequest((EncodedImage(cat_photo.read_bytes()),), outputs=outputs))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadedError(Reason.QUEUE_FULL, "full"), "failed"),
        (DeadlineExceededError("late"), "expired"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_an_image_that_cannot_be_explained_was_not_classified(
    model: LoadedModel, cat_photo: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, outcome: str
) -> None:
    """In the metrics, and in what drift is counted of: its caller gets no answer."""

    images = (EncodedImage(cat_photo.read_bytes()), EncodedImage(b"none"))

    async def occluded(*_: object) -> None:
        raise error

    async def run(metrics: Metrics) -> None:
        settings, registry = Settings(), ModelRegistry()  # type: ignore[call-arg]  # as above
        registry.put(model)
        decoders = DecodePool(1, expensive=1, spare=0)
        admission = Admission(Permits(64, 1 << 30, 1 << 30), streams=1, retry_after=lambda *_: 0.0)
        checks = RequestChecks(registry, decoders, metrics, max_images=64, geometries=frozenset())
        pipeline = Pipeline(admission, decoders, decoding_of(settings), metrics, checks)
        try:
            with pytest.raises(type(error)):
                await pipeline.classify(ClassifyRequest(images[:1], explain=Explain("occlusion")), Caller(NO_LANE))
            await pipeline.classify(ClassifyRequest(images), Caller(NO_LANE))
        finally:
            decoders.close()

    monkeypatch.setattr(explanations, "occluded", occluded)
    metrics = Metrics()
    asyncio.run(run(metrics))
    found = {
        each: metrics.registry.get_sample_value(
            "glimpse_images_total",
            {"model": model.identity.name, "version": model.identity.version, "outcome": each},
        )
        for each in ("classified", "refused", outcome)
    }
    assert found == {"classified": 1, "refused": 1, outcome: 1}


@pytest.mark.parametrize("cancelled", [False, True])
def test_each_image_of_a_large_request_ends_once(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    """Also where its caller leaves between two images."""
    metrics, make = Metrics(), Pipeline._result

    def leaving(*arguments: Any) -> ImageResult:
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.cancel()
        return make(*arguments)

    async def classify() -> int:
        registry = ModelRegistry()
        registry.put(model)
        decoders, settings = DecodePool(1, expensive=1, spare=0), Settings()  # type: ignore[call-arg]
        admission = Admission(Permits(64, 1 << 30, 1 << 30), streams=1, retry_after=lambda *_: 0.0)
        checks = RequestChecks(registry, decoders, metrics, max_images=8, geometries=frozenset())
        pipeline = Pipeline(admission, decoders, decoding_of(settings), metrics, checks)
        height, width, channels = model.bundle.input_shape
        image = RawImage(height, width, bytes(height * width * channels))
        try:
            return len((await pipeline.classify(ClassifyRequest((image,) * 3), Caller(NO_LANE))).results)
        except asyncio.CancelledError:
            return 0
        finally:
            decoders.close()

    monkeypatch.setattr("glimpse.server.pipeline.AT_ONCE", 0)
    monkeypatch.setattr(Pipeline, "_result", leaving)
    assert asyncio.run(classify()) == (0 if cancelled else 3)
    samples = (sample for metric in metrics.registry.collect() for sample in metric.samples)
    counted = {each.labels["outcome"]: each.value for each in samples if each.name == "glimpse_images_total"}
    assert {outcome: value for outcome, value in counted.items() if value} == {
        "cancelled" if cancelled else "classified": 3
    }
