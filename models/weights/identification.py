"""Identify the network that weights belong to by the sizes of their kernels, for messages about those that do not fit.

`sizes.csv` has the number and the sizes of the kernels of every row of the library, and of its options that change a
kernel, as a function of the number of classes. It is written by ``python -m glimpse.models.weights.identification``.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from glimpse.models.catalogue import rows
from glimpse.models.spec import Architecture
from glimpse.models.weights import graphs
from glimpse.models.weights.contents import Contents
from glimpse.models.weights.files import contents

SIZES = Path(__file__).with_name("sizes.csv")
_CLASSES = 1009  # that the table is made with: a prime that no other size has
_MOST_CLASSES = 1_000_000
_SHOWN = 3  # networks in an answer
# Values that are looked for beside a row's own, by option: those that change the size or number of kernels.
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "alpha": (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    "auxiliary": (True,),
    "factorized": (True,),
    "projection": ("forced",),
    "se_ratio": (None, 8, 16),
    "stem": ("paper", "handbook"),
}


@dataclass(frozen=True, slots=True)
class KernelSizes:
    """The number and sizes of the kernels of a network, for any number of classes."""

    name: str
    variant: str
    options: Mapping[str, Any]  # other than the row's own
    count: int  # of kernels
    total: int  # numbers in all but the classifiers'
    squares: int  # the sum of their sizes' squares, which tells apart what has the same total
    inputs: int  # of the classifiers, added up
    inputs_squares: int

    def classes(self, sizes: list[int]) -> int | None:
        """The number of classes with which the network has kernels of these sizes; None: it never has."""
        rest = sum(sizes) - self.total
        if len(sizes) != self.count or rest <= 0 or rest % self.inputs:
            return None
        classes = rest // self.inputs
        same = sum(size * size for size in sizes) == self.squares + self.inputs_squares * classes * classes
        return classes if same and classes <= _MOST_CLASSES else None

    def description(self, classes: int) -> str:
        """In words."""
        options = "".join(f" with {option}={value}" for option, value in self.options.items())
        return f"{self.name} ({self.variant}){options} of {classes} classes"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that weights may belong to."""

    sizes: KernelSizes
    classes: int

    def settings(self, row: Architecture | None) -> str:
        """The settings that select it, where `row` was selected before."""
        wanted = []
        if row is None or row.name != self.sizes.name:
            wanted.append(f"GLIMPSE_MODEL={self.sizes.name}")
        if (row is None or row.variant != self.sizes.variant) and not _is_default(self.sizes):
            wanted.append(f"GLIMPSE_VARIANT={self.sizes.variant}")
        if self.sizes.options or (row is not None and row not in rows()):
            wanted.append(f"GLIMPSE_OPTIONS='{json.dumps(self.sizes.options)}'")
        return " ".join(wanted)


def candidates(found: Contents, row: Architecture | None = None) -> list[Candidate]:
    """The networks whose kernels have exactly these sizes, those nearest to `row` first."""
    if found.graph is not None and (reduced := graphs.reduced(found.graph)) is not None:
        sizes = [math.prod(shape) for shape in graphs.kernels(reduced.last)]
    else:
        sizes = [value.size for value in found.tensors.values() if value.ndim > 1]
    hits = [Candidate(one, classes) for one in _table() if (classes := one.classes(sizes)) is not None]

    def distance(candidate: Candidate) -> tuple[bool, bool, int]:
        one = candidate.sizes
        return (row is None or one.name != row.name, row is None or one.variant != row.variant, len(one.options))

    return sorted(hits, key=distance)


def likely_networks(path: Path) -> str:
    """A sentence, with a leading space, about the networks that a file may have weights of; empty where there is none.

    Raises:
        WeightsError: the file cannot be read as weights.
        OSError: the file cannot be opened.
    """
    names = list(
        dict.fromkeys(candidate.sizes.description(candidate.classes) for candidate in candidates(contents(path)))
    )
    return f" By the sizes of its kernels it is {' or '.join(names[:_SHOWN])}." if names else ""


def mismatch_advice(
    found: Contents, model: keras.Model, misshapen: Mapping[str, tuple[int, ...]], row: Architecture | None
) -> str:
    """What to do about weights that do not fit `model`; empty where no network is known that they fit.

    Args:
        found: the contents of the file.
        model: the network that was selected.
        misshapen: by the path of a variable, the shape of the tensor in the file.
        row: the row that the network was built from.
    """
    classes = int(model.outputs[0].shape[-1])
    classifier = {
        variable.path for layer in model.layers if layer.name.endswith("_logits") for variable in layer.weights
    }
    classifier |= {variable.path for variable in _last(model).weights}
    likely = candidates(found, row)
    if misshapen and misshapen.keys() <= classifier:
        theirs = next(iter(misshapen.values()))[-1]
        return (
            f"The weights are for {theirs} classes, but {classes} labels were given. Give one label for each class, in "
            "order."
        )
    if row is not None and not likely and (value := _alpha(row, misshapen, model)) is not None:
        return f"The weights are for alpha={value}: set {_set(row, {'alpha': value})}."
    if not likely:
        return ""
    best = likely[0]
    one = best.sizes
    if row is not None and (one.name, one.variant) == (row.name, row.variant):
        changed = {option: value for option, value in _options_of(one).items() if getattr(row, option) != value}
        if changed:
            values = ", ".join(f"{option}={value}" for option, value in changed.items())
            return f"The weights are for {values}: set {_set(row, changed)}." + _and(best, classes)
        variants = dict.fromkeys(candidate.sizes.variant for candidate in likely if candidate.sizes.name == row.name)
        other = " or ".join(f"GLIMPSE_VARIANT={variant}" for variant in variants if variant != row.variant)
        return (
            "Its kernels have the sizes of this network's, but are connected or named differently: "
            + (f"set {other}, or " if other else "")
            + "save it with the publisher's own names."
        )
    also = list(dict.fromkeys(candidate.sizes.description(candidate.classes) for candidate in likely))[1:_SHOWN]
    others = f" (or {' or '.join(also)})" if also else ""
    return (
        f"By the sizes of its kernels it is {one.description(best.classes)}{others}: set {best.settings(row)}."
        + _and(best, classes)
    )


def _set(row: Architecture, changed: Mapping[str, Any]) -> str:
    """GLIMPSE_OPTIONS for a row with some options changed."""
    own = next(one for one in rows() if (one.name, one.variant) == (row.name, row.variant))
    kept = {option: getattr(row, option) for option in row.OPTIONS if getattr(row, option) != getattr(own, option)}
    return f"GLIMPSE_OPTIONS='{json.dumps({**kept, **changed})}'"


def _and(best: Candidate, classes: int) -> str:
    return "" if best.classes == classes else f" They are for {best.classes} classes, but {classes} labels were given."


def _options_of(sizes: KernelSizes) -> dict[str, Any]:
    """The values of all options that change kernels."""
    row = next(row for row in rows() if (row.name, row.variant) == (sizes.name, sizes.variant))
    return {option: sizes.options.get(option, getattr(row, option)) for option in row.OPTIONS if option in _VALUES}


def _is_default(sizes: KernelSizes) -> bool:
    return next(row for row in rows() if row.name == sizes.name).variant == sizes.variant


def _last(model: keras.Model) -> keras.Layer:
    return [layer for layer in model.layers if layer.weights][-1]


def _alpha(row: Architecture, misshapen: Mapping[str, tuple[int, ...]], model: keras.Model) -> float | None:
    """The width multiplier with which all shapes would be the file's; None where there is none."""
    from glimpse.models.builder import assemble

    alpha = getattr(row, "alpha", None)
    widths = [
        (int(variable.shape[-1]), misshapen[variable.path][-1])
        for variable in model.weights
        if variable.path in misshapen and len(misshapen[variable.path]) == len(variable.shape) == 4
    ]
    if not alpha or not widths:
        return None
    ours, theirs = max(widths)
    exact = float(alpha) * theirs / ours
    for value in dict.fromkeys((round(exact, 2), round(exact, 3), exact)):
        try:
            with keras.StatelessScope():
                other = assemble(replace(row, alpha=value)).model  # type: ignore[call-arg]
        except ValueError:
            continue
        shapes = {variable.path: tuple(variable.shape) for variable in other.weights}
        classifier = {variable.path for variable in _last(other).weights}
        if all(shapes.get(path) == shape for path, shape in misshapen.items() if path not in classifier):
            return value
    return None


@functools.cache
def _table() -> tuple[KernelSizes, ...]:
    with SIZES.open(encoding="utf-8", newline="") as file:
        return tuple(
            KernelSizes(
                line["name"],
                line["variant"],
                json.loads(line["options"]),
                *(int(line[column]) for column in ("count", "total", "squares", "inputs", "inputs_squares")),
            )
            for line in csv.DictReader(file)
        )


def measure(row: Architecture, options: Mapping[str, Any]) -> KernelSizes:
    """The line of the table for a row, computed from the network itself."""
    from glimpse.models.builder import assemble

    with keras.StatelessScope():  # in which no variable gets a value
        model = assemble(replace(row, **options), classes=_CLASSES).model
    kernels = [variable for variable in model.weights if len(variable.shape) > 1]
    heads = [math.prod(kernel.shape[:-1]) for kernel in kernels if kernel.shape[-1] == _CLASSES]
    others = [math.prod(kernel.shape) for kernel in kernels if kernel.shape[-1] != _CLASSES]
    return KernelSizes(
        row.name,
        row.variant,
        dict(options),
        len(kernels),
        sum(others),
        sum(size * size for size in others),
        sum(heads),
        sum(size * size for size in heads),
    )


def option_sets(row: Architecture) -> Iterator[dict[str, Any]]:
    """The options of a row that have a line in the table: none, and each value of `_VALUES`."""
    yield {}
    for option in row.OPTIONS:
        for value in _VALUES.get(option, ()):
            if value != getattr(row, option):
                try:
                    replace(row, **{option: value})
                except ValueError:
                    continue
                yield {option: value}


def write(table: Iterable[KernelSizes], file: Any) -> None:
    """Write the table as CSV."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("name", "variant", "options", "count", "total", "squares", "inputs", "inputs_squares"))
    for one in table:
        writer.writerow(
            (
                one.name,
                one.variant,
                json.dumps(one.options),
                one.count,
                one.total,
                one.squares,
                one.inputs,
                one.inputs_squares,
            )
        )
        file.flush()


def _measure_all() -> Iterator[KernelSizes]:
    """The table, without the options that change nothing."""
    for row in rows():
        own = measure(row, {})
        yield own
        for options in option_sets(row):
            if options and replace(found := measure(row, options), options={}) != own:
                yield found


if __name__ == "__main__":
    write(_measure_all(), sys.stdout)
