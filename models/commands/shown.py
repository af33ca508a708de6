"""What a command that takes a while shows of its steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glimpse.models.plain import sequences


class Shown:
    """What is going on, on the standard error: bars on a terminal, else a line for each step."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        console = Console(file=sequences(sys.stderr))
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Something with `total` parts begins; 0: nobody knows how many."""
        if self._bars.disable:
            print(f"{text} ...", file=sys.stderr)
        task = self._bars.add_task(text, total=total or None)
        try:
            yield lambda done: self._bars.update(task, completed=done)
        finally:
            self._bars.remove_task(task)
