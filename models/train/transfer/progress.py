"""What a transfer says while it works: a bar that knows its end on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glimpse.models.plain import sequences


class Bar:
    """A bar on the standard error, if that is a terminal; its lines go to the standard output in any case."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        """Show `done` of `total`; what is counted follows from the name."""
        console = Console(file=sequences(sys.stderr))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(name, total=total, completed=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int) -> None:
        """So many are done now."""
        self._progress.update(self._task, completed=done)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._progress.disable:
            print(line, flush=True)  # noqa: T201 - a program's
        else:
            self._progress.console.print(line, markup=False, highlight=False)
