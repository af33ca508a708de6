"""Nouns beside numbers, in what people read."""

from __future__ import annotations


def noun(number: float, one: str, several: str = "") -> str:
    """`one` beside 1, and beside any other number `several`, which is `one` with an s unless it is given."""
    return one if number == 1 else several or f"{one}s"
