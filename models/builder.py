"""Build the Keras model of an architecture, and the list of its stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from glimpse.models import class_maps, features, network_limits
from glimpse.models.complexity import multiply_adds
from glimpse.models.spec import Architecture, NetworkSummary, Output, Stage, StageSummary


@dataclass(frozen=True, slots=True)
class Assembly:
    """A built network and its macro-architecture, both from one walk over the same row."""

    paper: str  # where the network is described
    # float32 [N, H, W, C] -> logits float32 [N, classes]; with auxiliary classifiers a list, theirs after the main one
    model: keras.Model
    stages: tuple[StageSummary, ...]
    outputs: dict[str, keras.KerasTensor]  # by stage: for comparing two networks stage by stage
    output: Output = "logits"  # the network's own output; `model` gives logits in any case
    notes: tuple[str, ...] = ()  # about choices between tensors of its weights file

    @property
    def summary(self) -> NetworkSummary:
        """A description of the network that does not need Keras."""
        parameters = self.model.count_params(), trainable_parameters(self.model)
        return NetworkSummary(
            self.paper,
            self.stages,
            *parameters,
            self.output,
            self.notes,
            features.size(self.model),
            class_maps.grid(self.model),
        )


def assemble(
    architecture: Architecture,
    *,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    most_parameters: int = network_limits.MOST_PARAMETERS,
) -> Assembly:
    """Build `architecture` and summarise its stages.

    Args:
        architecture: the row.
        classes: number of classes, the row's own when None.
        input_shape: (height, width, channels), the row's `shape` when None.
        most_parameters: scalar weights that it may have.

    Raises:
        GiantNetworkError: it would have more weights, or take more multiply-adds than `models.network_limits` allows.
        ValueError: a size is not positive.
    """
    classes = architecture.classes if classes is None else classes
    shape = tuple(architecture.shape if input_shape is None else input_shape)
    if classes < 1:
        raise ValueError(f"classes must be at least 1. Received: {classes}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input_shape must be three positive sizes (height, width, channels). Received: {shape}")

    image = keras.Input(shape, name="image")
    with network_limits.parameters_of(architecture.name, most_parameters):
        outputs = list(architecture.stages(image, classes))
    main = [output for stage, output in outputs if not stage.auxiliary][-1]
    auxiliary = [output for stage, output in outputs if stage.auxiliary]
    model = keras.Model(
        image, [main, *auxiliary] if auxiliary else main, name=f"{architecture.name}_{architecture.variant}"
    )
    summaries = _summaries(model, outputs)
    network_limits.check_multiply_adds(architecture.name, sum(stage.multiply_adds for stage in summaries))
    return Assembly(architecture.paper, model, summaries, {stage.name: output for stage, output in outputs})


def _summaries(model: keras.Model, outputs: list[tuple[Stage, keras.KerasTensor]]) -> tuple[StageSummary, ...]:
    parameters = {stage.name: 0 for stage, _ in outputs}
    operations = dict(parameters)
    for layer in model.layers:
        owner = layer.name.split("_", maxsplit=1)[0]
        count = layer.count_params()
        if count and owner not in parameters:
            raise ValueError(f"Layer {layer.name!r} belongs to no stage; stages are {', '.join(parameters)}.")
        if count:
            parameters[owner] += count
            operations[owner] += multiply_adds(layer)
    return tuple(
        StageSummary(
            stage.name,
            stage.block,
            stage.repeats,
            tuple(out.shape[1:]),
            parameters[stage.name],
            operations[stage.name],
            stage.auxiliary,
        )
        for stage, out in outputs
    )


def trainable_parameters(model: keras.Model) -> int:
    """The number of trainable scalar weights."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
