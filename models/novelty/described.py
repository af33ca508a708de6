"""Checking what a bundle's description says of a score: it may come from anybody. No framework is imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_COUNT = 1 << 32


def fields(values: object, names: Sequence[str], what: str) -> list[Any]:
    """The values of these names, in their order.

    Args:
        values: what the description has.
        names: all have to be there; others may be, too.
        what: the values are of, as the beginning of a message.

    Raises:
        ValueError: it is no object, or lacks one of them.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be an object")  # noqa: TRY004 - as for every other value
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    return [values[name] for name in names]


def counts(what: str, *values: object) -> None:
    """Refuse numbers of images that are none.

    Raises:
        ValueError: one is not a whole number, is negative or is far too large.
    """
    if any(type(value) is not int or not 0 <= value < _COUNT for value in values):
        raise ValueError(f"{what} must be whole numbers, at least 0 and below 2^32")


def number(value: object, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number from `least` to below `most`.

    Raises:
        ValueError: it is another one, or none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{what} must be a number")
    if not least <= value < most:
        raise ValueError(f"{what} must be a number from {least:,.0f} to below {most:,.0f}")
    return float(value)


def texts(values: Mapping[str, object], what: str) -> dict[str, str]:
    """Arrays of numbers, each a text of base64 by its name (`models.novelty.number_texts`).

    Raises:
        ValueError: one is no text.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} of {what} must be a string of base64")  # noqa: TRY004 - as for every other value
    return {name: str(value) for name, value in values.items()}
