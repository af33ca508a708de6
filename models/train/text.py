"""Text for a model card."""

from __future__ import annotations

import textwrap


def paragraph(text: str) -> str:
    """The text in lines of at most 120 characters."""
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def numbers(values: tuple[float, ...]) -> str:
    """Numbers, one for each channel, short."""
    return " ".join(f"{value:g}" for value in values)
