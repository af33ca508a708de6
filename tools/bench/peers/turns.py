"""Several peers at once, loaded in turns of a moment: on a machine that others use, too, only ratios say something.

All of them are started, one is asked at a time, and the order turns round. Those that wait use next to nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.peers import environment, measure
from tools.bench.peers.environment import EnvironmentFailedError
from tools.bench.peers.measure import NotStartedError, Run
from tools.bench.peers.processes import Program


@dataclass
class _Side:
    """A peer that runs, its callers, and what is known of it."""

    row: dict[str, Any]
    server: Program
    load: subprocess.Popen[str]

    def turn(self) -> dict[str, Any]:
        """What the callers saw in a moment, and what it cost the server.

        Raises:
            NotStartedError: one of the two has ended.
        """
        assert self.load.stdin is not None
        assert self.load.stdout is not None
        before = self.server.cpu_seconds()
        self.load.stdin.write("\n")
        self.load.stdin.flush()
        line = self.load.stdout.readline()
        if not line:
            raise NotStartedError(f"It was lost: {self.server.last_words()}")
        seen: dict[str, Any] = json.loads(line)
        return {**self.row, **seen, **measure.cost(seen["images"], before, self.server)}


def rows(
    runs: Sequence[Run], *, files: Path, photos: Path, caller: Path, rounds: int, callers: int
) -> Iterator[dict[str, Any]]:
    """A row for each peer and round; for one that does not start, one that says why."""
    with ExitStack() as stack:
        sides = []
        for run in runs:
            row = measure.described(run, files)
            try:
                side = _side(run, row, stack, files=files, photos=photos, caller=caller, callers=callers)
            except (EnvironmentFailedError, NotStartedError) as error:
                yield {**row, "round": 0, "not_started": str(error)}
            else:
                sides.append(side)
                print(f"{run.peer.name}, {run.runtime}: ready", file=sys.stderr, flush=True)
        for number in range(1, rounds + 1):
            for side in sides if number % 2 else reversed(sides):
                yield {**side.turn(), "round": number}


def _side(
    run: Run, row: dict[str, Any], stack: ExitStack, *, files: Path, photos: Path, caller: Path, callers: int
) -> _Side:
    python = environment.prepare(run.peer.name, run.peer.packages)
    row["versions"] = environment.versions(python, run.peer.packages)
    port = measure.ports()
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peer")))
    server = stack.enter_context(measure.started(run, python, files, port, scratch))
    command = [*measure.callers(run, caller, files, photos, port=port, number=callers), "turns"]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stack.enter_context(load)  # closes its pipes, once it has ended
    stack.callback(load.kill)
    measure.until_measuring(load, server)
    return _Side({**row, "callers": callers}, server, load)
