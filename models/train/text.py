"""Text for a model card."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable


def paragraph(text: str) -> str:
    """The text in lines of at most 120 characters."""
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def numbers(values: tuple[float, ...]) -> str:
    """Numbers, one for each channel, short."""
    return " ".join(f"{value:g}" for value in values)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
