"""Cutting a program out of a seed by its line numbers, and random weights for it that a mistake would show in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from tests.models.seeds.programs import FOLDER


def source(file: str, lines: str, repairs: Iterable[tuple[str, str]] = ()) -> str:
    """The text of a program.

    Args:
        file: how the seed's name begins.
        lines: ranges of lines, ``"146-172 191-204+4"``; what is behind a plus are the spaces to put before each.
        repairs: what is replaced by what.
    """
    (path,) = FOLDER.glob(f"{file}_*.txt")
    # A form feed does not end a line here.
    all_lines = path.read_text(encoding="utf-8").split("\n")
    parts = []
    for match in re.finditer(r"(\d+)(?:-(\d+))?(?:\+(\d+))?", lines):
        first, last, spaces = int(match[1]), int(match[2] or match[1]), int(match[3] or 0)
        parts += [" " * spaces + line for line in all_lines[first - 1 : last]]
    text = "\n".join(parts)
    for wrong, right in repairs:
        assert wrong in text, f"{path.name}, lines {lines}: there is no {wrong!r} to repair"
        text = text.replace(wrong, right)
    return text


def run(text: str, **names: Any) -> dict[str, Any]:
    """The variables that a program leaves behind; `names` are those that it finds."""
    variables = {"keras": keras, "layers": keras.layers, "__name__": "seed", **names}
    exec(compile(text, "<seed>", "exec"), variables)  # noqa: S102 - the seeds are ours to run
    return variables


@contextlib.contextmanager
def recorded(monkeypatch: Any) -> Iterator[list[keras.Variable]]:
    """The variables that layers make meanwhile, in the order in which they are made."""
    made: list[keras.Variable] = []
    make = keras.layers.Layer.add_weight

    def add_weight(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> keras.Variable:
        variable = make(self, *args, **kwargs)
        made.append(variable)
        return variable

    with monkeypatch.context() as patch:
        patch.setattr(keras.layers.Layer, "add_weight", add_weight)
        yield made


def of(model: keras.Model, made: list[keras.Variable]) -> list[keras.Variable]:
    """The variables of a model in the order of their creation."""
    own = {id(variable) for variable in model.weights}
    return [variable for variable in made if id(variable) in own]


def randomise(variables: Iterable[keras.Variable]) -> None:
    """Values that tell every place apart: biases and shifts that are not zero, variances for which epsilon matters."""
    rng = np.random.default_rng(7)
    for variable in variables:
        shape = tuple(variable.shape)
        role = variable.path.rpartition("/")[2]
        if role.endswith("kernel"):
            fan_in = np.prod(shape[:2]) if "depthwise" in variable.path else np.prod(shape[:-1])
            value = rng.normal(0, np.sqrt(1.5 / fan_in), shape)
        elif role == "gamma":
            value = rng.uniform(0.2, 0.4, shape)  # about the deviation below, so that maps keep their scale
        elif role == "moving_variance":
            value = rng.uniform(0.03, 0.12, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variable.assign(value.astype(np.float32))


def without_softmax(model: keras.Model) -> keras.Model:
    """The same model up to what its last softmax or sigmoid is made of."""
    for layer in reversed(model.layers):
        if getattr(layer, "activation", None) in (keras.activations.softmax, keras.activations.sigmoid):
            layer.activation = keras.activations.linear
            return model
    raise AssertionError("The program ends in neither a softmax nor a sigmoid.")
