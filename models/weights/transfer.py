"""Setting a network's weights from named tensors: each variable has a role, each publisher a name for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from models.layouts import OWN, Layout, Role
from models.weights.errors import WeightsMismatchError
from models.weights.files import read

Tensors = Mapping[str, NDArray[np.generic]]


def load(model: keras.Model, path: Path, layouts: Mapping[str, Layout] | None = None) -> str:
    """Set every weight of `model` from a file.

    Args:
        model: the network.
        path: a file of any format that `read` knows.
        layouts: of the publishers whose names are understood beside our own.

    Returns:
        The layout in which the file was written, ``"glimpse"`` for our own.

    Raises:
        WeightsMismatchError: in no layout do names and shapes fit; the message speaks of the nearest one. No weight
            has been changed.
        WeightsError: the file cannot be read as weights.
        OSError: the file cannot be opened.
    """
    return transfer(model, read(path), layouts, source=path)


def transfer(model: keras.Model, tensors: Tensors, layouts: Mapping[str, Layout] | None = None, *, source: Path) -> str:
    """`load` from tensors that have been read from `source` already."""
    fits = {name: _fit(model, tensors, layout) for name, layout in {"glimpse": OWN, **(layouts or {})}.items()}
    nearest = min(fits, key=lambda name: fits[name].faults)
    fit = fits[nearest]
    if fit.faults:
        raise WeightsMismatchError(source, fit.missing, fit.unexpected, fit.misshapen, nearest)
    for variable, value in fit.values:
        variable.assign(value)
    return nearest


@dataclass(slots=True)
class _Fit:
    """How well tensors fit a network in one layout."""

    values: list[tuple[keras.Variable, NDArray[np.float32]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def place(
        self, variable: keras.Variable, value: NDArray[np.float32], name: str, shape: tuple[int, ...] | None = None
    ) -> None:
        """Take `value` for the variable if it fits; if not, note `name` and the `shape` that it had in the file."""
        ours = tuple(variable.shape)
        if value.shape == ours:
            self.values.append((variable, value))
        else:
            self.misshapen.append(f"{name}: {shape or value.shape}, the network has {ours} in {variable.path}")


def _fit(model: keras.Model, tensors: Tensors, layout: Layout) -> _Fit:
    fit, used = _Fit(), set()
    originals = layout.canonical(tensors)
    tensors = {name: tensors[original] for name, original in originals.items()}
    for layer in model.layers:
        theirs = layout.rename(layer.name)
        if (folded := _folded(layer, tensors, layout)) is not None:
            name, values = folded
            used.add(name)
            for variable in layer.weights:
                fit.place(variable, values[variable.name], name)
            continue
        for variable in layer.weights:
            names = layout.naming.tensors(theirs, _role(layer, variable))
            found = next((name for name in names if name in tensors), None)
            if found is None:
                fit.missing.append(names[0] if names else f"{layer.name}/{variable.name}")
                continue
            used.add(found)
            value = _arranged(tensors[found], layer, variable, layout.naming.order)
            if layout.background and isinstance(layer, keras.layers.Dense):
                value = _foreground(value, tuple(variable.shape))
            fit.place(variable, value, originals[found], tuple(tensors[found].shape))
    unused = re.compile("|".join(f"(?:{pattern})" for pattern in (r".*\.num_batches_tracked", *layout.unused)))
    unexpected = (originals[name] for name in sorted(tensors.keys() - used))
    fit.unexpected.extend(name for name in unexpected if not unused.fullmatch(name))
    return fit


def _folded(layer: keras.Layer, tensors: Tensors, layout: Layout) -> tuple[str, dict[str, NDArray[np.float32]]] | None:
    """Values that make a normalisation add the bias into which a converter has folded it, and that bias's name.

    None where the file has the normalisation itself, or has no such bias.
    """
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    convolution = layer.input._keras_history.operation  # noqa: SLF001 - Keras has no public way back through a graph
    theirs, naming = layout.rename(layer.name), layout.naming
    statistics: tuple[Role, ...] = ("moving_mean", "moving_variance")
    if any(name in tensors for role in statistics for name in naming.tensors(theirs, role)):
        return None
    if not isinstance(convolution, keras.layers.Conv2D | keras.layers.DepthwiseConv2D) or convolution.use_bias:
        return None
    names = naming.tensors(layout.rename(convolution.name), "bias")
    name = next((name for name in names if name in tensors), None)
    shape = tuple(layer.moving_mean.shape)
    if name is None:
        return None
    zeros, ones = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    # (x - 0) / sqrt(variance + epsilon) * 1 + bias, with variance + epsilon = 1
    values = {"gamma": ones, "moving_mean": zeros, "moving_variance": ones - np.float32(layer.epsilon)}
    return name, values | {"beta": tensors[name].astype(np.float32)}


def _role(layer: keras.Layer, variable: keras.Variable) -> Role:
    role: Role = variable.name
    return "depthwise" if role == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D) else role


def _arranged(
    tensor: NDArray[np.generic], layer: keras.Layer, variable: keras.Variable, order: str
) -> NDArray[np.float32]:
    """`tensor` with its axes in our order; what cannot be arranged is left as it is, for the caller to see."""
    value: NDArray[np.float32] = tensor.astype(np.float32)
    shape = tuple(variable.shape)
    if not variable.name.endswith("kernel") or order == "HWIO":
        return _squeezed(_gathered(value, layer), shape)
    if isinstance(layer, keras.layers.DepthwiseConv2D) and value.ndim == 4:
        # [C * multiplier, 1, H, W] or [1, H, W, C * multiplier] -> [H, W, C, multiplier]
        value = value.transpose(2, 3, 0, 1) if order == "OIHW" else value.transpose(1, 2, 3, 0)
        return value.reshape(shape) if value.size == np.prod(shape) else value
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0) if order == "OIHW" else value.transpose(1, 2, 3, 0)
        if value.shape[:3] == _flattened(layer):
            # A convolution over the whole of the maps (timm's VGG) is a dense layer behind them flattened.
            return value.reshape(-1, value.shape[-1])
    elif value.ndim == 2:
        value = value.T
        if order == "OIHW" and (maps := _flattened(layer)) and value.shape[0] == np.prod(maps):
            # PyTorch flattens a map channels first: its input unit is (c, y, x), ours (y, x, c).
            height, width, channels = maps
            value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(value.shape)
    return _squeezed(value, shape)


def _foreground(value: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A classifier without its first class, where it has one more than the network."""
    return _squeezed(value[..., 1:], shape) if value.shape[-1] == shape[-1] + 1 else value


def _gathered(value: NDArray[np.float32], layer: keras.Layer) -> NDArray[np.float32]:
    """A grouped convolution's kernel from the depthwise one as which Keras Applications write it.

    There each of the G * I channels has O outputs of its own, those of a group to be added up:
    [H, W, G * I, O] -> [H, W, I, G * O].
    """
    groups = layer.groups if isinstance(layer, keras.layers.Conv2D) else 1
    if groups == 1 or value.ndim != 4 or value.shape[2] != layer.kernel.shape[2] * groups:
        return value
    height, width, channels, outputs = value.shape
    split = value.reshape(height, width, groups, channels // groups, outputs)
    return split.transpose(0, 1, 3, 2, 4).reshape(height, width, channels // groups, groups * outputs)


def _squeezed(value: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A 1x1 convolution and a dense layer hold the same matrix: [1, 1, I, O] as [I, O], and the other way round."""
    ones = (1, 1)
    if {value.ndim, len(shape)} == {2, 4} and (*ones, *value.shape)[-4:] == (*ones, *shape)[-4:]:
        return value.reshape(shape)
    return value


def _flattened(layer: keras.Layer) -> tuple[int, ...] | None:
    """(height, width, channels) of the maps that a dense layer sees flattened, None for any other."""
    if not isinstance(layer, keras.layers.Dense):
        return None
    producer = layer.input._keras_history.operation  # noqa: SLF001 - Keras has no public way back through a graph
    return tuple(producer.input.shape[1:]) if isinstance(producer, keras.layers.Flatten) else None
