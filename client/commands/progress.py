"""How far a long run is, on stderr, while a person watches and the answers go elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from glimpse.client.commands.plain import sequences

if TYPE_CHECKING:
    from collections.abc import Iterable


class Advance(Protocol):
    """Counts one image that is done, and whether it failed. Threads may share it."""

    def __call__(self, *, failed: bool) -> None: ...  # noqa: D102  (the class says it)


@contextmanager
def progress(find: Callable[[], Iterable[str]], *, aside: bool) -> Iterator[Advance]:
    """A bar where stderr is a terminal; nothing at all elsewhere.

    The images are counted in a thread beside the work: until that is done, the bar shows what was done without saying
    of how many.

    Args:
        find: all images of the run once more, to be counted.
        aside: whether the answers go elsewhere. Where they scroll through the same terminal they tell enough.
    """
    if not aside or not sys.stderr.isatty():
        yield _nothing
        return
    from rich import progress as rich
    from rich.console import Console

    class Rate(rich.ProgressColumn):
        """Images a second, lately."""

        def render(self, task: rich.Task) -> str:
            return f"{task.speed:,.1f}/s" if task.speed else ""

    bar = rich.Progress(
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        Rate(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[failures]}"),
        console=Console(file=sequences(sys.stderr)),
        refresh_per_second=4,
    )
    task = bar.add_task("", total=None, failures="")
    failures = 0

    def advance(*, failed: bool) -> None:
        nonlocal failures
        failures += failed
        bar.update(task, advance=1, failures=f"{failures:,} failed" if failures else "")

    def count() -> None:
        bar.update(task, total=sum(1 for _ in find()))

    with bar:
        Thread(target=count, name="glimpse-count", daemon=True).start()
        yield advance


def _nothing(*, failed: bool) -> None:
    """Where nobody looks."""
