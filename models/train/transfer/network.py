"""The base with a new head: its weights, all but those of the layer that gives the scores of its classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from glimpse.models import keras_files, serving
from glimpse.models.builder import Assembly, assemble
from glimpse.models.messages import short
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.spec import Architecture, StageSummary
from glimpse.models.train.transfer.base import Base, BaseError
from glimpse.models.train.transfer.classes import classes_in
from glimpse.models.weights.files import contents
from glimpse.models.weights.transfer import transfer

# What may stand between a classifier and the scores, or before it, without weights of its own.
_DROPOUTS = (keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianDropout)
# What is kept of the layers behind a user's own head. All else makes other numbers of the logits, such as percentages.
_KEPT = (
    *_DROPOUTS,
    *(keras.layers.Flatten, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network with a new head."""

    assembly: Assembly  # the whole of it: scaled floats [N, H, W, C] -> logits [N, classes]
    head: keras.layers.Layer  # the new layer: dense, or a 1x1 convolution
    features: keras.KerasTensor  # what the head sees, before dropout
    stages: tuple[tuple[str, tuple[keras.layers.Layer, ...]], ...]  # all but the classifier, each with its layers
    classifier: tuple[keras.layers.Layer, ...]  # the layers of the classifier, the head among them


def load(base: Base, recipe: Recipe) -> Assembly:
    """The base as it was trained, with its own classes.

    Args:
        base: where the weights are.
        recipe: how images are prepared for it, for a base that states none.

    Raises:
        BundleError: the weights file is missing or damaged.
        WeightsError: the weights cannot be read, or do not fit the network.
    """
    if base.bundle is not None:
        return serving.load_bundle(base.bundle)
    row = base.row
    recipe = base.recipe or recipe
    if row is None:
        assert base.file is not None  # noqa: S101 - a base without a row is a file
        return keras_files.load(base.file, recipe=recipe, classes=None, head=None)
    shape = recipe.shape
    if base.file is None:
        keras.utils.set_random_seed(base.seed or 0)
        return assemble(row, input_shape=shape)
    found = contents(base.file)
    head = _cut(_main(assemble(row, input_shape=shape).model)).head
    classes = classes_in(found, head.name, row.layouts()) or row.classes
    assembly = assemble(row, classes=classes, input_shape=shape)
    transfer(assembly.model, found, row.layouts(), source=base.file, row=row)
    return assembly


def check(old: Assembly, base: Base, thaw: int) -> None:
    """Refuse a base whose head cannot be cut off, and more thawed stages than it has.

    Raises:
        BaseError: the message says what is missing.
    """
    if base.row is None:
        _of_model(old, 2, base.name)  # whether a head of other classes fits is not seen before it is there
    else:
        _cut(_main(old.model), base.name)
    stages = [stage.name for stage in old.stages if not stage.auxiliary]
    count = len(stages) - bool(base.architecture)  # the classifier is trained in any case
    if thaw > count:
        raise BaseError(
            f"--thaw must be at most {count}, the number of stages of {base.name} before its classifier "
            f"({', '.join(stages[:count])}). Received: {thaw}"
        )


def with_new_head(base: Base, old: Assembly, classes: int, recipe: Recipe, seed: int) -> Network:
    """The network of `old` with its weights and a new head for so many classes.

    Raises:
        BaseError: it has no head to cut, or cannot be built for images of the recipe's size.
    """
    keras.utils.set_random_seed(seed)
    assembly = _of_row(base.row, old, classes, recipe, base.name) if base.row else _of_model(old, classes, base.name)
    cut = _cut(_main(assembly.model), base.name)
    head, features = cut.head, cut.features
    if base.row is None:
        everything = tuple(layer for layer in assembly.model.layers if layer is not head)
        stages: tuple[tuple[str, tuple[keras.layers.Layer, ...]], ...] = (("network", everything),)
        classifier: tuple[keras.layers.Layer, ...] = (head,)
    else:
        names = [stage.name for stage in assembly.stages if not stage.auxiliary]
        parts = {name: tuple(x for x in assembly.model.layers if x.name.split("_")[0] == name) for name in names}
        classifier = parts.pop(names[-1])
        stages = tuple(parts.items())
    return Network(assembly=assembly, head=head, features=features, stages=stages, classifier=classifier)


def _of_row(row: Architecture, old: Assembly, classes: int, recipe: Recipe, name: str) -> Assembly:
    """The row's network for other classes; what is in `old` beside it (auxiliary classifiers) is left out."""
    try:
        assembly = assemble(row.served(), classes=classes, input_shape=recipe.shape)
    except ValueError as error:
        raise BaseError(
            f"{name} cannot be built for images of {recipe.height} x {recipe.width} pixels: {short(error)}"
        ) from error
    mine = {variable.path for variable in _cut(_main(assembly.model), name).head.weights}
    found = {variable.path: variable for variable in old.model.weights}
    for variable in assembly.model.weights:
        if variable.path in mine:
            continue
        value = found[variable.path]
        if value.shape != variable.shape:
            raise BaseError(
                f"{name} can only be used for images of the size that its weights were trained with: {variable.path} "
                f"is {tuple(value.shape)}, and would be {tuple(variable.shape)} for {recipe.height} x {recipe.width} "
                "pixels. Leave --size out."
            )
        variable.assign(value)
    return assembly


def _of_model(old: Assembly, classes: int, name: str) -> Assembly:
    """A model of the user's own with another last layer, up to its logits.

    Raises:
        BaseError: it has no head to cut, or none for so many classes can take its place.
    """
    cut = _cut(_main(old.model), name)
    try:
        x = _new_head(cut, classes)
    except (TypeError, ValueError) as error:
        raise BaseError(f"{name} cannot be given a new head in place of {cut.head.name!r}: {short(error)}") from error
    if x.shape[1:] != (classes,):
        raise BaseError(
            f"{name} cannot be given a new head in place of {cut.head.name!r}: its scores would have the shape "
            f"{x.shape[1:]}, not one number for each class. Put a global pooling behind that layer, and save it again."
        )
    model = keras.Model(old.model.inputs, x, name=old.model.name)
    [stage] = old.stages
    summary = StageSummary(
        stage.name, stage.block, stage.repeats, (classes,), model.count_params(), stage.multiply_adds
    )
    return Assembly(old.paper, model, (summary,), {stage.name: x}, "logits")


def _new_head(cut: _Cut, classes: int) -> keras.KerasTensor:
    """The logits of a layer like the head for so many classes, and of what is kept of the tail behind it."""
    head = cut.head
    config = {**head.get_config(), "name": "new_head", "activation": "linear"}
    config["filters" if isinstance(head, keras.layers.Conv2D) else "units"] = classes
    x = type(head).from_config(config)(cut.seen)
    for layer in cut.tail:
        x = layer(x) if isinstance(layer, _KEPT) else x
    # A convolution may have had its scores put in a row by an operation that is not kept.
    return x if len(x.shape) == 2 else keras.layers.Flatten()(x)


def _main(model: keras.Model) -> keras.KerasTensor:
    return model.outputs[0]  # those of auxiliary classifiers follow


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a network is cut."""

    head: keras.layers.Layer  # the layer that the scores come from
    tail: tuple[keras.Operation, ...]  # what is behind it, in order; without weights
    seen: keras.KerasTensor  # what it sees
    features: keras.KerasTensor  # the same before dropout


def _cut(scores: keras.KerasTensor, name: str = "") -> _Cut:
    """Find the layer that a network's scores come from.

    Raises:
        BaseError: the last layer with weights is neither a dense layer nor a 1x1 convolution.
    """
    tail: list[keras.Operation] = []
    for operation, inputs in _upwards(scores):
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            one = isinstance(operation, keras.layers.Conv2D) and set(operation.kernel_size) == {1}
            if not (one or isinstance(operation, keras.layers.Dense)):
                break
            features = inputs[0]
            for before, more in _upwards(features):
                if not isinstance(before, _DROPOUTS):
                    break
                features = more[0]
            return _Cut(operation, tuple(tail[::-1]), inputs[0], features)
        if len(inputs) != 1:
            break
        tail.append(operation)
    else:
        raise BaseError(f"{name} has no head to cut: it has no layer with weights. Give a trained classifier.")
    kind = type(operation).__name__
    raise BaseError(
        f"{name} has no head to cut: its scores come from {operation.name!r} ({kind}), not from a dense layer or a 1x1 "
        "convolution with a number for each class. Give a whole classifier, saved with its last layer."
    )


def _upwards(tensor: keras.KerasTensor) -> Iterator[tuple[keras.Operation, list[Any]]]:
    """What made a tensor, with its inputs, and what made the first of these, up to the input of the network."""
    while True:
        history = tensor._keras_history  # noqa: SLF001 - Keras has no public way back through a graph
        operation = history.operation
        if isinstance(operation, keras.layers.InputLayer):
            return
        inputs = list(operation._inbound_nodes[history.node_index].input_tensors)  # noqa: SLF001
        yield operation, inputs
        if not inputs:
            return
        tensor = inputs[0]
