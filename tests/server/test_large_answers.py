"""Answers of many images with all classes each, of which others wait for the event loop for one image at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from glimpse.models.labels import ClassLabel
from glimpse.server.access.call_context import CallContext
from glimpse.server.domain import (
    Classification,
    ImageResult,
    ModelIdentity,
    Prediction,
    Timing,
)
from glimpse.server.grpc import servicer
from glimpse.server.open_inference import inference, tensors

T = TypeVar("T")
IMAGES, CLASSES = 64, 1000


def with_others(work: Coroutine[Any, Any, T]) -> tuple[T, int]:
    """What `work` returns, and how often others had the event loop meanwhile."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def both() -> T:
        task = asyncio.ensure_future(others())
        try:
            return await work
        finally:
            task.cancel()

    return asyncio.run(both()), turns


def test_a_message_of_many_predictions_is_made_in_turns_with_others() -> None:
    predictions = tuple(Prediction(index, f"class {index}", "", 0.001) for index in range(CLASSES))
    answer = Classification(
        ModelIdentity("m", "1", "d"), tuple(ImageResult(Timing(), predictions) for _ in range(IMAGES))
    )
    codec = servicer._Codec(SimpleNamespace(replied=lambda *_, **__: None))  # type: ignore[arg-type]
    asked, call = servicer.Asked(images=()), CallContext("", "", "")
    message, turns = with_others(codec.replied(asked, answer, call))
    assert [len(each.predictions) for each in message.results] == [CLASSES] * IMAGES
    assert turns >= IMAGES - 1
    few = Classification(answer.model, answer.results[:2])
    assert with_others(codec.replied(asked, few, call))[1] <= 1


def test_texts_of_all_classes_are_made_in_turns_with_others() -> None:
    labels = tuple(ClassLabel(f"class {index}") for index in range(CLASSES))
    rows = [np.random.default_rng(seed).random(CLASSES, np.float32) for seed in range(IMAGES)]
    answer = Classification(ModelIdentity("m", "1", "d"), (), labels)
    request: Any = SimpleNamespace(min_probability=0.0)
    wanted = inference._Wanted("probabilities", CLASSES)
    output, turns = with_others(inference._output(wanted, rows, request, answer))
    assert output.shape == (IMAGES, CLASSES)
    assert tensors.elements(output.raw)[:CLASSES] == tensors.told(rows[0], labels, CLASSES)
    assert turns >= IMAGES - 1
