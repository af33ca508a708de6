"""Every architecture of the library by name and variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

from glimpse.models.families import (
    densenet,
    efficientnet_lite,
    googlenet,
    handbook,
    inception_resnet_v2,
    inception_v2,
    inception_v3,
    inception_v4,
    mobilenet,
    mobilenet_v2,
    resnet,
    resnet_v2,
    resnext,
    senet,
    squeezenet,
    vgg,
    xception,
)
from glimpse.models.files.bounded_files import shown
from glimpse.models.spec import Architecture
from glimpse.models.suggestions import did_you_mean

_ROWS: tuple[Architecture, ...] = (
    *resnet.ROWS,
    *resnet_v2.ROWS,
    *resnext.ROWS,
    *senet.ROWS,
    *handbook.ROWS,
    *squeezenet.ROWS,
    *vgg.ROWS,
    *googlenet.ROWS,
    *inception_v2.ROWS,
    *inception_v3.ROWS,
    *inception_v4.ROWS,
    *inception_resnet_v2.ROWS,
    *densenet.ROWS,
    *mobilenet.ROWS,
    *mobilenet_v2.ROWS,
    *efficientnet_lite.ROWS,
    *xception.ROWS,
)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_counts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_count, value))


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


# By the annotation of an option's field: whether a value can be one, and what one is. Choices by name are not here:
# their families know them.
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "float": (_is_number, "a number"),
    "int": (_is_count, "a whole number from 1 on"),
    "tuple[int, ...]": (_are_counts, "a list of whole numbers from 1 on"),
    "int | None": (_is_count_or_none, "a whole number from 1 on, or null"),
}


# Bounds of what options may ask for, far beyond every published network. A bundle may come from anybody, and its
# network is built in the server.
_MOST_COUNT = 65_536  # of a whole number, such as channels or units of a layer
_MOST_COUNTS = 1_000  # numbers in a list
_MOST_BLOCKS = 2_000  # of all groups together; the deepest published network has some 600
_MOST_SCALE = 10  # of a multiplier, such as MobileNet's alpha
_MOST_HIDDEN_WEIGHTS = 1 << 28  # between hidden layers, all together: 1 GiB in float32


class UnknownArchitectureError(ValueError):
    """The library has no such architecture, variant or option; the message lists similar names."""


def architectures() -> dict[str, tuple[str, ...]]:
    """Names of all architectures, each with its variants; the first variant is the default."""
    names: dict[str, tuple[str, ...]] = {}
    for row in _ROWS:
        names[row.name] = (*names.get(row.name, ()), row.variant)
    return names


def rows() -> tuple[Architecture, ...]:
    """Every row, those of a family together."""
    return _ROWS


def find(name: str, variant: str | None = None, options: Mapping[str, Any] | None = None) -> Architecture:
    """The row of that name and variant (the first variant when None), with `options` in place of its own values.

    Raises:
        UnknownArchitectureError: with near matches in the message.
        ValueError: an option's value cannot be.
    """
    rows = [row for row in _ROWS if row.name == name]
    if not rows:
        raise UnknownArchitectureError(
            f"No architecture is called {name!r}.{did_you_mean(name, architectures())} "
            "python -m glimpse.models list shows all architectures."
        )
    for row in rows:
        if variant is None or row.variant == variant:
            return _with(row, options or {})
    raise UnknownArchitectureError(
        f"{name} has no variant {variant!r}.{did_you_mean(variant or '', [row.variant for row in rows])}"
    )


def _excess(option: str, value: object) -> str:
    """What an option's value, of the right kind, must be and is not, behind "must"; empty where it is in bounds."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        most = _MOST_SCALE if option in {"alpha", "rho"} else _MOST_BLOCKS if option == "middle" else _MOST_COUNT
        return f"be at most {most:,}. Received: {shown(value)}" if value > most else ""
    return _excess_of_list(option, value) if isinstance(value, list | tuple) else ""


def _excess_of_list(option: str, value: Sequence[int]) -> str:
    if len(value) > _MOST_COUNTS:
        return f"have at most {_MOST_COUNTS:,} numbers. Received: {len(value):,} of them"
    if max(value) > _MOST_COUNT:
        return f"have numbers of at most {_MOST_COUNT:,}. Received: {shown(max(value))}"
    if option == "depths" and sum(value) > _MOST_BLOCKS:
        return f"add up to at most {_MOST_BLOCKS:,} blocks. Received: {sum(value):,}"
    if option == "hidden" and (count := sum(a * b for a, b in pairwise(value))) > _MOST_HIDDEN_WEIGHTS:
        return f"have at most {_MOST_HIDDEN_WEIGHTS:,} weights between its layers. Received: {count:,}"
    return ""


def _with(row: Architecture, options: Mapping[str, Any]) -> Architecture:
    for option in options:
        if option not in row.OPTIONS:
            raise UnknownArchitectureError(
                f"{row.name} ({row.variant}) has no option {option!r}.{did_you_mean(option, row.OPTIONS)}"
            )
    kinds = {field.name: str(field.type) for field in fields(row)}
    for option, value in options.items():
        fits, wanted = _KINDS.get(kinds[option], (None, ""))
        if fits is not None and not fits(value):
            raise ValueError(f"{row.name}: {option} must be {wanted}. Received: {value!r}")
        if excess := _excess(option, value):
            raise ValueError(f"{row.name}: {option} must {excess}")
    if not 0 <= options.get("dropout", 0) < 1:
        raise ValueError(f"{row.name}: dropout must be at least 0 and less than 1. Received: {options['dropout']!r}")
    # JSON has lists only.
    values: dict[str, Any] = {
        option: tuple(value) if isinstance(value, list) else value for option, value in options.items()
    }
    return replace(row, **values) if values else row


__all__ = ["Architecture", "UnknownArchitectureError", "architectures", "find", "rows"]
