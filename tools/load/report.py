"""What a run found: figures, promises, and whether they held."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_EVERY = 10.0  # seconds between two lines where there is no terminal


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that must be so."""

    text: str
    held: bool
    found: str = ""  # what was found instead, or the figure behind it


@dataclass
class Report:
    """One run."""

    name: str
    figures: dict[str, str] = field(default_factory=dict)  # for people
    promises: list[Promise] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)  # for programs

    @property
    def broken(self) -> list[Promise]:
        """The promises that did not hold."""
        return [promise for promise in self.promises if not promise.held]

    def promise(self, text: str, held: object, found: object = "") -> None:
        """Add a promise and what became of it."""
        self.promises.append(Promise(text, bool(held), str(found)))

    def markdown(self) -> str:
        """Two tables."""
        lines = [f"## {self.name}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in self.figures.items()]
        lines += ["", "| promise | | found |", "|---|---|---|"]
        lines += [
            f"| {promise.text} | {'holds' if promise.held else '**broken**'} | {_cell(promise.found)} |"
            for promise in self.promises
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Everything, as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def counts(counter: Mapping[str, float]) -> str:
    """``3 QUEUE_FULL, 1 OTHER``, by falling number."""
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,.0f} {name}" for name, number in ordered if number) or "none"


class Ticker:
    """How far a run is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        """`total`: requests."""
        self._name, self._total = name, total
        self._begun = self._told = time.monotonic()
        self._done = 0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(name, total=total)

    def at(self, done: int, what: str = "") -> None:
        """So many requests are done."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{self._name} {what}".strip())
        elif time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            self.tell(what)

    def tell(self, what: str) -> None:
        """Say something now."""
        line = f"{time.monotonic() - self._begun:6.0f} s  {self._name}: {self._done:,} of {self._total:,}  {what}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line.rstrip(), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """Begin."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if self._bar is not None:
            self._bar.stop()
