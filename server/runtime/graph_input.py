"""In front of a graph of another framework: uint8 pixels become what its input takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glimpse.models.foreign.facts import GraphError, GraphFacts, ImageInput, Quantisation
from glimpse.models.foreign.formats import GraphFormat
from glimpse.models.heads import BINARY_CLASSES, MULTI_LABEL, HeadKind
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.runtime.openvino_library import openvino, ops

_FLOATS = frozenset({"f32", "f16", "f64", "bf16"})
# Numbers that a pixel, from 0 to 255, fits into as it is.
_PIXELS = frozenset({"u8", "u16", "i16", "u32", "i32", "u64", "i64"})
_LIMITS = {"u8": (0, 255), "i8": (-128, 127), "i16": (-32768, 32767)}
_OUTSIDE = 0.1  # share of the recipe's range that a quantised input may lack


class Graph(NamedTuple):
    """What is to be converted."""

    path: Path
    format: GraphFormat
    facts: GraphFacts
    takes: ImageInput
    recipe: Recipe
    classes: int
    embedding: str = ""  # the node whose output is the embedding; empty: what the last layer with weights reads
    head: HeadKind = "softmax"  # what its scores mean

    @property
    def may_be_single(self) -> bool:
        """Whether a single score would be that of the second of two classes."""
        return self.classes == BINARY_CLASSES and self.head != MULTI_LABEL


def input_shape(graph: Graph, batch: int) -> openvino.PartialShape:
    """That of the graph's input for images of the recipe's size; -1: batches of any size."""
    height, width, depth = graph.recipe.shape
    if graph.takes.flat:
        return openvino.PartialShape([batch, height, width])
    return openvino.PartialShape(
        [batch, depth, height, width] if graph.takes.channels_first else [batch, height, width, depth]
    )


def prepared(graph: Graph, model: Any, pixels: Any) -> Any:
    """What the graph takes, made of uint8 pixels: scaled by the recipe, in its own numbers and layout."""
    recipe = graph.recipe
    x = ops.convert(pixels, "f32")
    mask = None
    if recipe.masked:
        parts = ops.variadic_split(x, integers(3), integers([recipe.depth, 1]))
        x, mask = parts.output(0), parts.output(1)
    if recipe.channels == "BGR":
        x = ops.gather(x, integers([2, 1, 0]), integers(3))
    scale = np.array([1 / std for std in recipe.std], np.float32)
    offset = np.array([-mean / std for mean, std in zip(recipe.mean, recipe.std, strict=True)], np.float32)
    if (scale != 1).any():
        x = ops.multiply(x, ops.constant(scale.reshape(1, 1, 1, -1)))
    if offset.any():
        x = ops.add(x, ops.constant(offset.reshape(1, 1, 1, -1)))
    if mask is not None:
        x = ops.multiply(x, mask)
    x = _numbers(graph, model, x)
    if graph.takes.flat:
        return ops.squeeze(x, integers([3]))
    return ops.transpose(x, integers([0, 3, 1, 2])) if graph.takes.channels_first else x


def _numbers(graph: Graph, model: Any, x: Any) -> Any:
    """Scaled pixels in the numbers of the graph's input.

    Raises:
        GraphError: they do not fit into these.
    """
    kind = model.inputs[0].get_element_type().get_type_name()
    (given,) = graph.facts.inputs
    if kind in _FLOATS:
        return x if kind == "f32" else ops.convert(x, kind)
    if given.quantisation is not None and kind in _LIMITS:
        least, most = _LIMITS[kind]
        _check_range(graph, given.quantisation, least, most)
        steps = ops.divide(x, ops.constant(np.float32(given.quantisation.scale)))
        steps = ops.round(steps, "half_away_from_zero")
        steps = ops.add(steps, ops.constant(np.float32(given.quantisation.zero_point)))
        return ops.convert(ops.clamp(steps, float(least), float(most)), kind)
    recipe = graph.recipe
    plain = set(recipe.mean) == {0.0} and set(recipe.std) == {1.0}
    if kind not in _PIXELS or not plain:
        raise GraphError(
            f"{graph.path} takes {given.dtype} without saying what the numbers stand for, and the recipe "
            f"{'scales pixels' if not plain else 'gives pixels from 0 to 255'}. "
            + ("Remove mean and std from the recipe." if kind in _PIXELS else "Export it for float32 or uint8.")
        )
    return ops.convert(x, kind)


def _check_range(graph: Graph, quantisation: Quantisation, least: int, most: int) -> None:
    """Refuse a recipe whose numbers are not those that the input was quantised for."""
    recipe = graph.recipe
    begin = (least - quantisation.zero_point) * quantisation.scale
    end = (most - quantisation.zero_point) * quantisation.scale
    low = min((0 - mean) / std for mean, std in zip(recipe.mean, recipe.std, strict=True))
    high = max((255 - mean) / std for mean, std in zip(recipe.mean, recipe.std, strict=True))
    allowed = _OUTSIDE * (high - low)
    if low < begin - allowed or high > end + allowed:
        raise GraphError(
            f"{graph.path} takes quantised numbers from {begin:.4g} to {end:.4g}, but the recipe gives numbers from "
            f"{low:.4g} to {high:.4g}. Give the recipe the mean and std of the network before it was quantised."
        )


def feed(parameter: Any, value: Any) -> None:
    """Let everything that reads an input of the graph read `value` instead."""
    output = value if isinstance(value, openvino.Output) else value.output(0)
    for target in list(parameter.output(0).get_target_inputs()):
        target.replace_source_output(output)


def integers(values: int | Iterable[int]) -> Any:
    """A constant of whole numbers: axes, places, a shape."""
    return ops.constant(np.array(values, np.int64))
