"""Load a Keras file as the network that is served: read it, flatten it, and determine what its scores are."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models import score_kinds, two_scores
from glimpse.models.builder import Assembly
from glimpse.models.heads import BINARY, BINARY_CLASSES, MULTI_LABEL, HeadKind
from glimpse.models.keras_files import bounds, scores
from glimpse.models.keras_files.inlined import Flat, inlined
from glimpse.models.keras_files.reading import read
from glimpse.models.messages import lacks_memory, short
from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Recipe, change_for
from glimpse.models.spec import Output, StageSummary
from glimpse.models.weights.errors import WeightsError

# Numbers that Keras may keep at a time, of all operations and pictures, where that is more than two pictures.
_TOGETHER = 1 << 28
# Activations behind which no score is one for itself, or none of 0 to 1.
_NO_OWN = frozenset({"softmax", "log_softmax", "tanh"})
# By how much two ways to compute the same may differ, as a share of the largest number.
_SAME = {"float16": 3e-2, "bfloat16": 1e-1}


def load(path: Path, *, recipe: Recipe, classes: int | None, head: HeadKind | None = "softmax") -> Assembly:
    """Read a saved model, in Keras' safe mode: no code in it is run.

    Args:
        path: of a ``.keras`` file, or of an ``.h5`` file with a whole model. The model takes images ``[N, H, W, C]``
            behind the recipe's scaling, grey ones also as ``[N, H, W]``, and gives logits, probabilities or their
            logarithms, ``[N, classes]``.
        recipe: the pre-stem that the model was trained behind.
        classes: how many labels there are for it; None: as many as it has scores.
        head: what its scores mean. A single score is that of the second of two labels in any case but that of several
            labels. None: whatever they mean, because they are to be replaced by others.

    Returns:
        The network up to its logits, as a single stage; where `head` is None, the whole of it.

    Raises:
        WeightsError: not such a file, or a model that cannot be served.
        MemoryError: there was not enough to compute it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its author could do better; whoever serves it cannot
        model = _with_channels(read(path), recipe)
        single = _check(path, model, recipe, classes, head)
        made = bounds.check_computation(path, model, recipe)
        flat, expected = _flat(path, model, recipe, _TOGETHER // max(1, made))
    network = flat.model
    kind: Output = "logits"
    if head is not None:
        network, kind = _up_to_logits(path, flat, expected, each=single or head == MULTI_LABEL)
    if single:
        network, kind = two_scores.of_one(network), "binary"
    stage = StageSummary(
        "network",
        type(model).__name__.lower(),
        1,
        tuple(network.outputs[0].shape[1:]),
        network.count_params(),
        flat.multiply_adds,
    )
    return Assembly("", network, (stage,), {"network": network.outputs[0]}, kind)


def _check(path: Path, model: keras.Model, recipe: Recipe, classes: int | None, head: HeadKind | None) -> bool:
    """Refuse a model that is not a classifier of single images of the recipe's size.

    Returns:
        Whether it gives a single score, that of the second of two classes.
    """
    if not getattr(model, "inputs", None):
        raise WeightsError(f"{path} must hold a functional or sequential model. Received: {type(model).__name__}")
    takes, gives = ([tuple(x.shape) for x in tensors] for tensors in (model.inputs, model.outputs))
    if len(takes) != 1 or len(gives) != 1 or len(takes[0]) != 4:
        raise WeightsError(
            f"{path} must take one batch of images {_images(recipe)} and give one batch of scores [N, classes]. "
            f"Received: {len(takes)} inputs {short(str(takes))} and {len(gives)} outputs {short(str(gives))}."
        )
    ours, theirs = recipe.shape, takes[0][1:]
    if theirs[0] == recipe.depth and theirs[2] not in {1, 3}:
        raise WeightsError(
            f"{path} takes images with the channels first, {theirs}. Build it with data_format='channels_last', "
            f"{_images(recipe)}."
        )
    if any(their not in (None, our) for our, their in zip(ours, theirs, strict=True)):
        raise WeightsError(
            f"The network in {path} takes images of shape {theirs}, but the recipe produces {ours}. "
            f"{change_for(recipe, theirs)}"
        )
    plain = set(recipe.mean) == {0.0} and set(recipe.std) == {1.0}
    if not keras.backend.is_float_dtype(model.inputs[0].dtype) and not plain:
        raise WeightsError(
            f"{path} takes integers ({model.inputs[0].dtype}), but the recipe scales pixels with mean {recipe.mean} "
            f"and std {recipe.std}. Remove mean and std from the recipe."
        )
    if head is not None and _is_single(path, gives[0][1:], classes, head):
        return True
    if classes is None and len(gives[0]) == 2:
        return False
    if gives[0][1:] != (classes,):
        there = (
            "and only one score for each class can be used" if classes is None else f"but there are {classes} labels"
        )
        raise WeightsError(
            f"{path} gives {_scores(gives[0][1:])}, {there}. "
            + ("Give a whole classifier." if classes is None else "Give one label for each class, in order.")
        )
    return False


def _is_single(path: Path, gives: tuple[int | None, ...], classes: int | None, head: HeadKind) -> bool:
    """Whether scores of such a shape are a single one, that of the second of two classes."""
    if gives == (1,) and head != MULTI_LABEL:
        if classes == BINARY_CLASSES:
            return True
        raise WeightsError(
            f"{path} gives a single score, as of a sigmoid that says yes or no, which is that of the second of two "
            f"classes. Give two labels for it: first that of 0, then that of 1. Received: {classes or 'no'} "
            f"label{'s' * (classes != 1)}."
        )
    if head == BINARY:
        raise WeightsError(
            f"{path} gives {_scores(gives)}, and the head is stated as binary, which has a single one. Remove "
            "head from the recipe."
        )
    return False


def _with_channels(model: keras.Model, recipe: Recipe) -> keras.Model:
    """A model of grey images ``[N, H, W]`` as one of ``[N, H, W, 1]``; any other as it is."""
    takes = [tuple(x.shape) for x in getattr(model, "inputs", None) or ()]
    plain = len(takes) == 1 and len(takes[0]) == 3 and recipe.depth == 1
    if not plain or any(theirs not in {None, ours} for ours, theirs in zip(recipe.shape, takes[0][1:], strict=False)):
        return model
    image = keras.Input(recipe.shape, name="image")
    return keras.Model(image, model(keras.layers.Reshape(recipe.shape[:2])(image)), name=model.name)


def _images(recipe: Recipe) -> str:
    return f"[N, H, W, {recipe.depth}]"


def _scores(shape: tuple[int | None, ...]) -> str:
    return f"{shape[0]} scores" if len(shape) == 1 else f"scores of the shape {shape}"


def _flat(path: Path, model: keras.Model, recipe: Recipe, at_once: int) -> tuple[Flat, NDArray[np.float32]]:
    """The model without models within it, and what it gives for `score_kinds.pictures`, so many of them at once."""
    pixels = score_kinds.pictures(recipe)
    expected = _answers(path, model, recipe, pixels, at_once)
    alone = _answers(path, model, recipe, pixels[-1:])
    if not _same(alone, expected[-1:], model):
        raise WeightsError(
            f"{path} gives a picture different scores when it is computed again or together with other pictures, so "
            "its predictions are not reproducible. Call no layer in it with training=True, and compute nothing over "
            "the batch axis."
        )
    try:
        flat = inlined(model, recipe.shape)
        if _same(_answers(path, flat.model, recipe, pixels, at_once), expected, model):
            return flat, expected
    except (WeightsError, ValueError, TypeError, AttributeError, NotImplementedError):
        pass  # what Keras raises for a graph that it cannot walk through; then it is served as it is
    return Flat(model, 0, Counter()), expected


def _up_to_logits(path: Path, flat: Flat, expected: NDArray[np.float32], *, each: bool) -> tuple[keras.Model, Output]:
    """The network up to its logits, and what its own output is; `each`: every score is one for itself."""
    if each:
        return _up_to_own_logits(path, flat, expected), "logits"
    model, last = flat.model, scores.activation(flat.model)
    kind = score_kinds.kind(expected, model.outputs[0].dtype)
    if (logits := scores.without_softmax(flat)) is not None:
        return logits, "logits"
    # A linear layer's numbers are between 0 and 1 by chance.
    if last in ("sigmoid", "hard_sigmoid") or (kind == "shares" and not scores.is_linear(model)):
        raise WeightsError(
            f"{path} must end in a softmax or in logits. Received: {last}{last and ', '}scores from 0 to 1 for each "
            "class alone, which do not add up to 1. If an image may show several of its classes, or none, state "
            'head = "multi-label" in its recipe.'
        )
    if kind == "probabilities":
        return scores.logarithm(model), kind
    if kind == "log-probabilities":
        return model, kind
    if last not in ("", "linear", "softmax", "log_softmax"):
        raise WeightsError(f"{path} must end in a softmax or in logits. Received: {last}")
    return model, "logits"


def _up_to_own_logits(path: Path, flat: Flat, expected: NDArray[np.float32]) -> keras.Model:
    """The network up to logits of which a sigmoid makes the probability of each class for itself."""
    if (logits := scores.without_sigmoid(flat)) is not None:
        return logits
    model, last = flat.model, scores.activation(flat.model)
    inside = bool((expected >= 0).all() and (expected <= 1).all())
    if last in _NO_OWN or (last == "" and not inside and expected.shape[1] > 1):
        raise WeightsError(
            f"{path} must end in a sigmoid or in logits, because its scores are each for itself. Received: "
            f"{last or 'another operation'}."
        )
    # Numbers of a linear layer are between 0 and 1 by chance.
    return model if scores.is_linear(model) or not inside else scores.log_odds(model)


def _answers(
    path: Path, model: keras.Model, recipe: Recipe, pixels: NDArray[np.uint8], at_once: int = 1
) -> NDArray[np.float32]:
    """What a model gives for uint8 ``[P, H, W, C]``, at least two at once where there are two: ``[P, classes]``."""
    if len(pixels) > (step := max(2, at_once)):
        parts = [pixels[start : start + step] for start in range(0, len(pixels), step)]
        return np.concatenate([_answers(path, model, recipe, part) for part in parts])
    try:
        images = graph.scale(keras.ops.convert_to_tensor(pixels), recipe)
        if not isinstance(model, keras.Sequential):  # which has no names for its input
            images = keras.tree.pack_sequence_as(model.input, [images])
        found = model(images, training=False)
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(*keras.tree.flatten(found), "float32")))
    except Exception as error:  # whatever the backend raises in one of the layers
        if lacks_memory(error):
            raise MemoryError(short(error)) from error
        raise WeightsError(f"{path} cannot be computed here: {short(error)}") from error


def _same(found: NDArray[np.float32], expected: NDArray[np.float32], model: keras.Model) -> bool:
    """Whether two answers are the same but for rounding."""
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=1e-6))
    allowed = _SAME.get(scores.half(model), 1e-3) * largest
    return found.shape == expected.shape and np.allclose(found, expected, rtol=0, atol=allowed, equal_nan=True)
