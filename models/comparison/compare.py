"""Measure several models on the same images, on this machine."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from glimpse.models.comparison import labelled, names
from glimpse.models.comparison.labelled import LabelledFiles
from glimpse.models.comparison.process import MeasuringProcess


class Progress(Protocol):
    """Told what is going on."""

    def step(self, text: str, total: int) -> AbstractContextManager[Any]:
        """Something with `total` parts begins; inside the context, the function that is given takes the parts done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One model on the data. Shares are 0..1.

    Attributes:
        name: as the user gave it.
        variant: of its architecture; empty: a whole Keras model.
        model: name of the bundle.
        weights_digest: of the weights.
        runtime: which computed, with its `device` and `precision`.
        parameters: scalar weights of the network.
        multiply_adds: for one image.
        input_shape: (height, width, channels).
        batch_size: of the largest batch that the server would compute.
        images: that were measured.
        left_out: of each image that could not be read, its name and the reason.
        metrics: by name, see `models.train.measure.Measurement.metrics`.
        images_per_second: in each turn, with as many images waiting as the batches take.
        latency_ms: in each turn, the median time that an image alone takes, in milliseconds.
    """

    name: str
    variant: str
    model: str
    weights_digest: str
    runtime: str
    device: str
    precision: str
    parameters: int
    multiply_adds: int
    input_shape: tuple[int, ...]
    batch_size: int
    images: int
    left_out: tuple[tuple[str, str], ...]
    metrics: dict[str, float]
    images_per_second: tuple[float, ...]
    latency_ms: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Images a second, the median of the turns."""
        return statistics.median(self.images_per_second)

    @property
    def latency(self) -> float:
        """Milliseconds for an image alone, the median of the turns."""
        return statistics.median(self.latency_ms)


def compare(
    models: Sequence[str],
    data: LabelledFiles,
    progress: Progress,
    *,
    turns: int,
    seconds: float,
    skip_unreadable: bool = False,
) -> list[Result]:
    """Measure every model: its answers on all images one after the other, then the speed of all in turns.

    Every model is found and compared with the classes of the data before the first is loaded. All stay loaded until
    the end, so that what disturbs the machine for a while disturbs all of them.

    Args:
        models: their names, see `models.comparison.names`.
        data: the labelled images.
        progress: told what is going on.
        turns: how many times each model's speed is measured.
        seconds: that a turn of a model takes, at least.
        skip_unreadable: leave out images that cannot be read, instead of ending.

    Raises:
        ValueError, OSError: a model or an image cannot be used; the message says which.
    """
    orders = _orders(models, data)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(MeasuringProcess(name)) for name in models]
        loaded: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        for name, process, order in zip(models, processes, orders, strict=True):
            with progress.step(f"{name}: loading", 0):
                loaded.append(process.ask("load", **order["model"]))
            with progress.step(f"{name}: classifying {len(data.files):,} images", len(data.files)) as report:
                answers.append(
                    process.ask("classify", progress=report, **order["data"], skip_unreadable=skip_unreadable)
                )
        speeds: list[list[dict[str, float]]] = [[] for _ in models]
        with progress.step("measuring the speed of all models in turns", turns * len(models)) as report:
            for done, at in enumerate(_in_turns(len(models), turns), start=1):
                speeds[at].append(processes[at].ask("time", seconds=seconds))
                report(done)
    return [
        Result(
            name=name,
            variant=order["variant"],
            images=int(answer["metrics"]["images"]),
            left_out=tuple((file, reason) for file, reason in answer["left_out"]),
            metrics=answer["metrics"],
            images_per_second=tuple(turn["images_per_second"] for turn in speed),
            latency_ms=tuple(turn["latency_ms"] for turn in speed),
            **{**facts, "input_shape": tuple(facts["input_shape"])},
        )
        for name, order, facts, answer, speed in zip(models, orders, loaded, answers, speeds, strict=True)
    ]


def _orders(models: Sequence[str], data: LabelledFiles) -> list[dict[str, Any]]:
    """What each process is told; all that can be wrong with the names of models and classes is found here."""
    # Published weights last: what they are is known without them, and a wrong name is to be told before a download.
    published = {name: found for name in models if (found := names.checkpoint(name))}
    bundles = {name: names.resolve(name) for name in models if name not in published}
    indices, troubles = {}, []
    for name in models:
        try:
            indices[name] = labelled.indices(data, (published.get(name) or bundles[name]).labels, name)
        except ValueError as error:
            troubles.append(str(error))
    if troubles:
        raise ValueError("\n  ".join(troubles))
    if several := [name for name, bundle in bundles.items() if not bundle.head.exclusive]:
        raise ValueError(
            f"{several[0]} is a multi-label model, which has no first class to be compared. Measure it with python -m "
            "glimpse.models.evaluate --labels."
        )
    bundles |= {name: names.resolve(name) for name in published}
    orders = []
    for name in models:
        source, index = names.source(name), indices[name]
        orders.append(
            {
                "variant": bundles[name].variant,
                "model": {"weights": source.weights, "architecture": source.architecture},
                "data": {
                    "images": str(data.images.absolute()),
                    "files": [(file, index[label]) for file, label in data.files],
                },
            }
        )
    return orders


def _in_turns(models: int, turns: int) -> Iterator[int]:
    """Every model once in each turn; every other turn in the opposite order, so that none always comes first."""
    for turn in range(turns):
        yield from range(models) if turn % 2 == 0 else reversed(range(models))
