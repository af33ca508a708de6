"""Loading named tensors into a network: each variable has a role, for which each publisher has a name.

Where a file's names do not fit as they are, `models.weights.prefixes` says what else they may be called; where it has a
graph, `models.weights.structure` finds the place of each tensor without any name.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.layouts import OWN, Layout, Role
from glimpse.models.spec import Architecture
from glimpse.models.weights import identification, prefixes, structure
from glimpse.models.weights.axes import to_keras_order, without_background
from glimpse.models.weights.contents import Contents, Tensors
from glimpse.models.weights.errors import WeightsError, WeightsMismatchError
from glimpse.models.weights.files import contents
from glimpse.models.weights.graphs import Graph

_log = logging.getLogger(__name__)
GRAPH = "graph"  # what `load` returns for a file whose tensors were told by their place in its graph


def load(
    model: keras.Model,
    path: Path,
    layouts: Mapping[str, Layout] | None = None,
    *,
    row: Architecture | None = None,
    say: Callable[[str], Any] = _log.info,
) -> str:
    """Set every weight of `model` from a file.

    Args:
        model: the network.
        path: a file of any format that `read` knows.
        layouts: of the publishers whose names are understood beside our own.
        row: the row that the network was built from, so that an error can say which option would fit.
        say: called with a sentence for each choice that was made between tensors of the file.

    Returns:
        The layout of the file, ``"glimpse"`` for our own, `GRAPH` where tensors were identified by the graph.

    Raises:
        WeightsMismatchError: names and shapes fit in no layout; the message is about the closest one. No weight has
            been changed.
        WeightsError: the file cannot be read as weights, or has numbers that are infinite or none.
        OSError: the file cannot be opened.
    """
    return transfer(model, contents(path), layouts, source=path, row=row, say=say)


def transfer(
    model: keras.Model,
    found: Contents | Tensors,
    layouts: Mapping[str, Layout] | None = None,
    *,
    source: Path,
    row: Architecture | None = None,
    say: Callable[[str], Any] = _log.info,
) -> str:
    """`load` from what has been read from `source` already."""
    found = found if isinstance(found, Contents) else Contents(found)
    nearest = _nearest(model, found, {"glimpse": OWN, **(layouts or {})})
    if nearest.faults:
        raise WeightsMismatchError(
            source,
            nearest.missing,
            nearest.unexpected,
            nearest.misshapen,
            nearest.layout,
            hint=identification.mismatch_advice(found, model, nearest.misshapen_shapes, row),
        )
    for variable, value in nearest.values:  # of all, before the first is set
        if not np.isfinite(value).all():
            raise WeightsError(
                f"{source} has numbers for {variable.path} that are infinite, none, or too large for float32. "
                "The training that wrote it has diverged, or the file is damaged. Take an earlier checkpoint, or copy "
                "it again."
            )
    for note in nearest.notes:
        say(note)
    for variable, value in nearest.values:
        variable.assign(value)
    return nearest.layout


def _nearest(model: keras.Model, found: Contents, layouts: Mapping[str, Layout]) -> _Fit:
    """The first fit without a fault, else that with the fewest."""
    fits = []
    for named in prefixes.candidates(found):
        for name, layout in layouts.items():
            fit = _fit(model, named.tensors, layout, found.epsilons)
            fit.layout, fit.notes = name, (*named.notes, *fit.notes)
            if not fit.faults:
                return fit
            fits.append(fit)
    if found.graph is not None:
        background = any(layout.background for layout in layouts.values())
        # Where neither fits, what the graph says is nearer to the cause than names that it does not have.
        fits.insert(0, _fit_by_structure(model, found.graph, background=background))
    return min(fits, key=lambda fit: fit.faults)


@dataclass(slots=True)
class _Fit:
    """How well tensors fit a network in one layout."""

    layout: str = GRAPH
    notes: tuple[str, ...] = ()
    values: list[tuple[keras.Variable, NDArray[np.float32]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    misshapen_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by variable, what the file has for it

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def place(
        self, variable: keras.Variable, value: NDArray[np.generic], name: str, shape: tuple[int, ...] | None = None
    ) -> None:
        """Take `value` for the variable if it fits; if not, note `name` and the `shape` that it had in the file."""
        ours = tuple(variable.shape)
        if value.dtype.kind != "f":  # as of a quantised network, whose scales are elsewhere
            self.misshapen.append(f"{name}: {value.dtype}, the network has floats in {variable.path}")
        elif value.shape == ours:
            with np.errstate(over="ignore"):  # what float32 does not hold is infinite
                self.values.append((variable, value.astype(np.float32)))
        else:
            self.misshapen.append(f"{name}: {shape or value.shape}, the network has {ours} in {variable.path}")
            self.misshapen_shapes[variable.path] = value.shape


def _fit(model: keras.Model, tensors: Tensors, layout: Layout, epsilons: Mapping[str, float]) -> _Fit:
    fit, used = _Fit(), set()
    originals = layout.canonical(tensors)
    tensors = {name: tensors[original] for name, original in originals.items()}
    theirs = layout.theirs(layer.name for layer in model.layers if layer.weights)
    for layer in model.layers:
        if (folded := _folded(layer, tensors, layout, theirs)) is not None:
            name, values = folded
            used.add(name)
            for variable in layer.weights:
                fit.place(variable, values[variable.name], name)
            continue
        for variable in layer.weights:
            parts = []
            for part in theirs[layer.name]:
                names = layout.naming.tensors(part, _role(layer, variable))
                found = next((name for name in names if name in tensors), None)
                if found is None:
                    fit.missing.append(names[0] if names else f"{layer.name}/{variable.name}")
                    continue
                used.add(found)
                parts.append(found)
            if len(parts) < len(theirs[layer.name]):
                continue
            tensor = _joined([tensors[part] for part in parts])
            value = to_keras_order(tensor, layer, variable, layout.naming.order)
            if layout.background and isinstance(layer, keras.layers.Dense):
                value = without_background(value, tuple(variable.shape))
            if variable.name == "moving_variance":
                told = {epsilons.get(originals[part].rpartition("/")[0]) for part in parts}
                value = _with_epsilon(fit, value, layer, told.pop() if len(told) == 1 else None)
            fit.place(variable, value, originals[parts[0]], tuple(tensor.shape))
    unused = re.compile("|".join(f"(?:{pattern})" for pattern in (r".*\.num_batches_tracked", *layout.unused)))
    unexpected = (originals[name] for name in sorted(tensors.keys() - used))
    fit.unexpected.extend(name for name in unexpected if not unused.fullmatch(name))
    return fit


def _with_epsilon(
    fit: _Fit, variance: NDArray[np.generic], norm: keras.Layer, epsilon: float | None
) -> NDArray[np.generic]:
    """The variance with which a normalisation computes what it does in the file, where it adds `epsilon` to it."""
    if epsilon is None or math.isclose(epsilon, norm.epsilon, rel_tol=1e-3) or variance.dtype.kind != "f":
        return variance
    note = (
        f"the batch normalisations in the file add {epsilon:g} to the variance, and those of the network "
        f"{norm.epsilon:g}: the variances are changed by the difference, so that they compute the same"
    )
    fit.notes = tuple(dict.fromkeys((*fit.notes, note)))
    return np.asarray(variance, np.float64) + (epsilon - norm.epsilon)


def _joined(parts: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    """The parts of a grouped layer as one; the first of them where they do not belong together."""
    if len(parts) == 1 or len({(part.ndim, part.shape[:-1]) for part in parts}) > 1 or not parts[0].ndim:
        return parts[0]
    return np.concatenate(parts, axis=-1)


def _fit_by_structure(model: keras.Model, graph: Graph, *, background: bool) -> _Fit:
    """What a file's graph has for each layer; a batch normalisation becomes what its converter has made of it."""
    match = structure.match(model, graph)
    if match is None:
        return _Fit(missing=[layer.name for layer in model.layers if layer.weights])
    alike = (f"{name} (several places of the graph are alike)" for name in match.ambiguous)
    fit = _Fit(missing=[*match.missing, *alike], unexpected=match.unexpected)
    by_graph = (
        "the names in the file do not identify its tensors, so they were matched by their positions in its graph; "
        "batch normalisations are folded into the convolutions"
    )
    by_itself = "the graph in the file scales its input before the first convolution; here the recipe has to do that"
    fit.notes = (by_graph, by_itself) if match.scaled else (by_graph,)
    for found in match.weights:
        _place(fit, found, background=background)
    return fit


def _place(fit: _Fit, found: structure.Weights, *, background: bool) -> None:
    scale, shift = found.scale, found.shift
    if found.layer.kernel is not None and found.kernel is not None:
        # What is behind the kernel becomes a part of it, as converters do.
        scale, shift = None, _place_kernel(fit, found, found.layer.kernel, found.kernel, background=background)
    norm = found.layer.norm
    if norm is None:
        return
    count = norm.moving_mean.shape[0]
    values = {
        "gamma": np.ones(count, np.float32) if scale is None else scale,
        "beta": np.zeros(count, np.float32) if shift is None else shift,
    }
    values = {role: np.broadcast_to(value, count) if value.size == 1 else value for role, value in values.items()}
    if (norm.gamma is None and scale is not None) or (norm.beta is None and values["beta"].any()):
        fit.unexpected.append(f"a scale or shift of {found.layer.name}")
    values |= _identity(norm)
    for variable in norm.weights:
        fit.place(variable, values[variable.name].astype(np.float32), f"{found.name or variable.path}, folded")


def _place_kernel(
    fit: _Fit, found: structure.Weights, layer: keras.Layer, kernel: NDArray[Any], *, background: bool
) -> NDArray[Any]:
    """Set the kernel; what is added behind it, one number a channel, which is set where there is no normalisation."""
    if found.scale is not None:
        along = [1] * kernel.ndim
        along[found.output_axis] = -1
        kernel = kernel * found.scale.reshape(along)
    value = to_keras_order(kernel, layer, layer.kernel, found.order)
    shift = np.zeros(1, np.float32) if found.shift is None else found.shift
    if shift.size == 1:
        shift = np.broadcast_to(shift, kernel.shape[found.output_axis])
    if background and isinstance(layer, keras.layers.Dense) and value.shape[-1] == layer.kernel.shape[-1] + 1:
        value, shift = without_background(value, tuple(layer.kernel.shape)), shift[1:]
    fit.place(layer.kernel, value, found.name, tuple(kernel.shape))
    normalised = found.layer.norm is not None
    if layer.bias is not None:
        bias = np.zeros_like(shift) if normalised else shift
        fit.place(layer.bias, bias.astype(np.float32), f"{found.name}, bias")
    elif not normalised and shift.any():
        fit.unexpected.append(f"a bias of {found.name}")
    return shift


def _identity(norm: keras.layers.BatchNormalization) -> dict[str, NDArray[np.float32]]:
    """Statistics that do nothing: (x - 0) / sqrt(variance + epsilon) with variance + epsilon = 1."""
    shape = tuple(norm.moving_mean.shape)
    zeros, ones = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    return {"moving_mean": zeros, "moving_variance": ones - np.float32(norm.epsilon)}


def _folded(
    layer: keras.Layer, tensors: Tensors, layout: Layout, theirs: Mapping[str, tuple[str, ...]]
) -> tuple[str, dict[str, NDArray[np.generic]]] | None:
    """Values that make a normalisation add the bias into which a converter has folded it, and that bias's name.

    None where the file has the normalisation itself, or has no such bias.
    """
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    convolution = layer.input._keras_history.operation  # noqa: SLF001 - Keras has no public way back through a graph
    own, naming = theirs[layer.name], layout.naming
    statistics: tuple[Role, ...] = ("moving_mean", "moving_variance")
    if len(own) > 1 or any(name in tensors for role in statistics for name in naming.tensors(own[0], role)):
        return None
    if not isinstance(convolution, keras.layers.Conv2D | keras.layers.DepthwiseConv2D) or convolution.use_bias:
        return None
    names = naming.tensors(theirs[convolution.name][0], "bias")
    name = next((name for name in names if name in tensors), None)
    if name is None:
        return None
    ones = np.ones(tuple(layer.moving_mean.shape), np.float32)
    return name, {"gamma": ones, "beta": tensors[name], **_identity(layer)}


def _role(layer: keras.Layer, variable: keras.Variable) -> Role:
    role: Role = variable.name
    return "depthwise" if role == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D) else role
