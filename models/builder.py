"""From a row of plain data to a Keras model, and what was built as a list of stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from models.catalogue import Buildable
from models.spec import Stage, StageSummary


@dataclass(frozen=True, slots=True)
class Assembly:
    """A built network and its macro-architecture, both from one walk over the same row."""

    architecture: Buildable
    model: keras.Model  # float32 [N, H, W, C] -> logits float32 [N, classes]
    stages: tuple[StageSummary, ...]


def assemble(
    architecture: Buildable,
    *,
    classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> Assembly:
    """Build `architecture` and summarise its stages.

    Args:
        architecture: the row.
        classes: number of classes, the row's own when None.
        input_shape: (height, width, channels), the row's own when None.

    Raises:
        ValueError: a size is not positive.
    """
    classes = architecture.classes if classes is None else classes
    shape = architecture.input_shape if input_shape is None else input_shape
    if classes < 1:
        raise ValueError(f"classes must be at least 1. Received: {classes}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input_shape must be three positive sizes (height, width, channels). Received: {shape}")

    image = keras.Input(shape, name="image")
    outputs = list(architecture.stages(image, classes))
    model = keras.Model(image, outputs[-1][1], name=f"{architecture.name}_{architecture.variant}")
    return Assembly(architecture, model, _summaries(model, outputs))


def _summaries(model: keras.Model, outputs: list[tuple[Stage, keras.KerasTensor]]) -> tuple[StageSummary, ...]:
    parameters = {stage.name: 0 for stage, _ in outputs}
    for layer in model.layers:
        owner = layer.name.split("_", maxsplit=1)[0]
        count = layer.count_params()
        if count and owner not in parameters:
            raise ValueError(f"Layer {layer.name!r} belongs to no stage; stages are {', '.join(parameters)}.")
        if count:
            parameters[owner] += count
    return tuple(
        StageSummary(stage.name, stage.block, stage.repeats, tuple(out.shape[1:]), parameters[stage.name])
        for stage, out in outputs
    )


def trainable_parameters(model: keras.Model) -> int:
    """Number of scalar weights that training may change."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
