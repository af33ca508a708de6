"""What a person sees on stderr while a load runs: one line that changes in a terminal, one now and then elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from glimpse.client.commands.plain import plain, sequences
from glimpse.client.load.plan import Plan
from glimpse.client.load.tally import Tally

_EVERY = {True: 0.5, False: 5.0}  # seconds between two lines, in a terminal and elsewhere


def line(plan: Plan, tally: Tally, now: float) -> str:
    """How it goes, lately."""
    moment, seconds = tally.recent(now)
    at = now - tally.begin
    if at < 0:
        state = f"warm-up {-at:.0f} s"
    elif plan.requests:
        state = f"{tally.requests:,} of {plan.requests:,}"
    else:
        state = f"{min(at, plan.duration):.0f} of {plan.duration:g} s"
    latency = moment.latency.figures()
    times = f"p50 {milliseconds(latency['p50'])}  p99 {milliseconds(latency['p99'])}" if latency else "no answers"
    return (
        f"{plan.name}: {state}  {moment.requests / seconds:,.1f} requests/s  {times}  "
        f"{tally.errors.total():,} errors  {tally.in_flight:,} in flight"
    )


def milliseconds(seconds: float | None) -> str:
    """A time with three digits that mean something."""
    if seconds is None:
        return "-"
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms" if seconds else "0 ms"


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watcher]:
    """What to call when a phase begins and when it is over. Nothing is shown where it is to be quiet."""
    if quiet:
        yield Watcher(lambda _: None, _EVERY[False])
        return
    if not sys.stderr.isatty():
        yield Watcher(lambda text: print(text, file=sys.stderr, flush=True) if text else None, _EVERY[False])  # noqa: T201  (for people)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # The report goes to stdout as it is, whether that is the same terminal or a file.
    console = Console(file=sequences(sys.stderr))
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as shown:

        def show(text: str) -> None:
            shown.update(Text(plain(text), no_wrap=True, overflow="ellipsis"), refresh=True)

        yield Watcher(show, _EVERY[True])


class Watcher:
    """Shows the phase that runs, from a task of the loop in which it does."""

    def __init__(self, show: Callable[[str], Any], every: float) -> None:
        self._show = show
        self._every = every
        self._task: asyncio.Task[None] | None = None

    def __call__(self, plan: Plan, tally: Tally) -> None:
        """A phase begins; called in its loop."""
        self._task = asyncio.create_task(self._watch(plan, tally))

    def end(self) -> None:
        """It is over: nothing of it stays where the report of it will stand."""
        if self._task is not None:
            self._task.cancel()
        self._show("")

    async def _watch(self, plan: Plan, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every)
            self._show(line(plan, tally, loop.time()))
