"""Tables on the standard output: aligned in a terminal, separated by tabs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

SIZES = ("parameters", "multiply-adds")
# Columns that a narrow terminal folds; names and numbers stay whole.
_FOLDS = frozenset({"weights", "block"})
_NUMBERS = frozenset({"repeats", "top-1", "top-5", "ECE", "images/s", "ms", "batch", *SIZES})


def show(
    console: Console,
    columns: Sequence[str],
    lines: Sequence[tuple[str, ...]],
    *,
    footer: tuple[str, ...] = (),
    left_out: Sequence[str] = (),
) -> None:
    """Print a table: aligned in a terminal; elsewhere a line for each row, with tabs between, never wrapped."""
    if not console.is_terminal:
        for line in (columns, *lines, *([footer] if footer else [])):
            print("\t".join(line))
        return
    shown = [at for at, column in enumerate(columns) if column not in left_out]
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=bool(footer))
    for at in shown:
        folds = columns[at] in _FOLDS
        table.add_column(
            columns[at],
            footer=footer[at] if footer else "",
            justify="right" if columns[at] in _NUMBERS else "left",
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
        )
    for line in lines:
        table.add_row(*(line[at] for at in shown))
    console.print(table)


def percent(value: float | None) -> str:
    """A figure that is per cent already, to one decimal; empty for None."""
    return "" if value is None else f"{value:.1f}%"
