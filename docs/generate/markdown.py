"""Markdown for tables and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_FENCE = re.compile(r"^\s*(```|~~~)")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; line breaks and bars in the cells are kept from breaking it."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").strip()


def code(text: object) -> str:
    """A name or a value as it is written in a program; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def anchor(name: str) -> str:
    """An anchor where it stands, so that a name in a table can be linked to."""
    return f'<span id="{name}"></span>'


def deeper(text: str, levels: int) -> str:
    """The same text with its headings that much lower; what stands in fences is no heading."""
    lines, fenced = [], False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line))
        lines.append("#" * levels + line if line.startswith("#") and not fenced else line)
    return "\n".join(lines) + "\n"
