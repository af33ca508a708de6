"""`python -m tools.bench.engine`: what the engine process alone costs for each image, fed as workers feed it.

One process plays all workers: it copies pixels into their slots and sends the records of `server/engine/records.py`
at a stated rate, as calls of one image come, a few in each write. The device is the simulated one. CPU time is the
kernel's count for each thread of the engine; that of the feeder is not counted. With two folders the engines of two
checkouts are fed in turns of a moment, so that their ratio is of the same minute of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from glimpse.models.child_environment import child_environment
from glimpse.server import settings
from glimpse.server.engine import records
from glimpse.server.engine.arena import Arena
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.fair_queue import Lane
from glimpse.server.processes.control_channel import ControlChannel, memory_file, read_memory_file
from glimpse.server.settings import Settings
from tools.bench import machine, path
from tools.bench.networks import FOLDER
from tools.bench.worker import ROOT

_TICK = 0.0003  # seconds between two looks of the feeder: about what an event loop's turn takes
_PARTIES = 4
_PARTS = ("compose", "hand over")  # of the engine, by the names that `path` gives them
_PATIENCE = 60.0  # seconds


class Engine:
    """The engine process of a checkout, as its supervisor begins it."""

    def __init__(self, root: Path, chosen: Settings) -> None:
        """Start it and wait until it has loaded."""
        self._channel, theirs = ControlChannel.pair()
        found = os.pathsep.join(map(str, (path.INSIDE, root, root / "src")))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "glimpse.server.engine_process", "--control", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**child_environment(), "PYTHONPATH": found},
            cwd=root,
        )
        theirs.close()
        file = memory_file("bench", pickle.dumps(chosen))
        self._channel.send({"do": "settings", "engine": 1}, [file])
        os.close(file)
        message = self._channel.receive()
        while message is not None and message.body.get("did") == "loading":  # what it is at
            message = self._channel.receive()
        assert message is not None
        assert message.body["did"] == "loaded", message
        self.facts: ModelFacts = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from our own process

    def connect(self) -> socket.socket:
        """A worker's end of a connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._channel.send({"do": "connect", "worker": 1}, [theirs.fileno()])
        return ours

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._channel.close()


class Connection:
    """What a worker is to an engine, without calls."""

    def __init__(self, engine: Engine, slots: int) -> None:
        """Connect, with an arena of so many slots."""
        layout = engine.facts.layout
        self._arena = Arena.make(layout, slots)
        self._socket = engine.connect()
        hello = records.hello(slots, layout.slot_bytes)
        socket.send_fds(self._socket, [hello], [self._arena.file])
        for number in range(_PARTIES):
            self._socket.send(records.lane(number, Lane(f"party {number}")))
        self._free = list(range(slots))
        self._slots: dict[int, int] = {}
        self._ticket = 0
        self._inbox = records.Inbox()
        self._pixels = np.random.default_rng(0).integers(0, 255, (16, *layout.pixels_shape), np.uint8)
        self._mask = 1 << [name for name, _ in layout.outputs].index("probabilities")
        self.batches: list[int] = []

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def submit(self, images: int) -> int:
        """Send so many, or as many as there are slots for, with one write; returns how many."""
        told, now = [], time.monotonic()
        for _ in range(min(images, len(self._free))):
            slot = self._free.pop()
            self._ticket += 1
            self._slots[self._ticket] = slot
            np.copyto(self._arena.pixels[slot], self._pixels[self._ticket % 16])
            lane = self._ticket % _PARTIES
            told.append(records.submit(slot, lane, self._mask, self._ticket, now + 60.0, now))
        if told:
            self._socket.send(b"".join(told))
        return len(told)

    def receive(self) -> int:
        """Take the answers that have come; returns how many."""
        found = self._inbox.take(self._socket.recv(1 << 18))
        for record in found:
            assert isinstance(record, records.Answered), record
            self._free.append(self._slots.pop(record.ticket))
            self.batches.append(record.batch_size)
        return len(found)

    @property
    def outstanding(self) -> int:
        """Images that are not answered."""
        return len(self._slots)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._arena.close()


@dataclass
class Side:
    """An engine, its connections and what was measured, by rate."""

    name: str
    engine: Engine
    connections: Sequence[Connection]
    rounds: dict[float, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT], help="checkouts; default: this one")
    parser.add_argument("--rates", nargs="+", type=float, default=[1000.0, 4000.0, 8000.0], help="images a second")
    parser.add_argument("--workers", type=int, default=4, help="connections")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    chosen = parser.parse_args(arguments)

    with ExitStack() as stack:
        sides = []
        bundle = path.make_bundle(FOLDER / "simulated")
        loaded = settings.load([f"--weights={bundle}", "--runtime=simulated", "--max-images-in-flight=1024"])
        plain = Settings.model_construct(**dict(loaded))
        for folder in chosen.folders:
            engine = stack.enter_context(Engine(folder.resolve(), plain))
            connections = [stack.enter_context(closing(Connection(engine, 128))) for _ in range(chosen.workers)]
            sides.append(Side(str(folder), engine, connections))
        for turn in range(chosen.rounds + 1):
            for rate in chosen.rates:
                for side in sides if turn % 2 else reversed(sides):
                    found = _round(side, rate, chosen.seconds if turn else 0.3)
                    if turn:
                        side.rounds[rate].append(found)
    for line in _lines(sides, chosen.rates):
        print(line)
    if chosen.json:
        chosen.json.write_text(json.dumps({side.name: side.rounds for side in sides}, indent=1), encoding="utf-8")
    return 0


def _round(side: Side, rate: float, seconds: float) -> dict[str, Any]:
    pid = side.engine.process.pid
    before, begun = machine.threads(pid), time.monotonic()
    submitted, turn = 0, 0
    for connection in side.connections:
        connection.batches.clear()
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate) - submitted
        while due > 0:
            each = max(1, due // len(side.connections))
            sent = side.connections[turn % len(side.connections)].submit(min(due, each))
            submitted, due, turn = submitted + sent, due - sent, turn + 1
            if not sent:
                break
        ready, _, _ = select.select(side.connections, [], [], _TICK)
        for connection in ready:
            connection.receive()
        time.sleep(_TICK)
    while any(connection.outstanding for connection in side.connections):
        for connection in select.select(side.connections, [], [], _PATIENCE)[0]:
            connection.receive()
    took = time.monotonic() - begun
    parts: dict[str, float] = defaultdict(float)
    for thread, (name, spent) in machine.threads(pid).items():
        parts[path.thread_part(name, main=thread == pid)] += (spent - before.get(thread, ("", 0.0))[1]) / submitted
    batches = [size for connection in side.connections for size in connection.batches]
    return {
        "cpu": sum(parts.values()),
        "parts": parts,
        "rate": submitted / took,
        "batch": 1 / float(np.mean(1 / np.array(batches))),  # images over batches
        "cores": sum(parts.values()) * submitted / took,
    }


def _lines(sides: Sequence[Side], rates: Sequence[float]) -> list[str]:
    heads = ["rate asked for", "engine", "images/s", "images a batch", "CPU us/image", *_PARTS, "against the first"]
    lines = [f"| {' | '.join(heads)} |", "|---:|---|" + "---:|" * (len(heads) - 2)]
    for rate in rates:
        for side in sides:
            rounds = side.rounds[rate]
            against = np.median(np.divide(_all(rounds, "cpu"), _all(sides[0].rounds[rate], "cpu")))
            parts = [f"{np.median([1e6 * one['parts'].get(part, 0.0) for one in rounds]):.0f}" for part in _PARTS]
            cells = [f"{rate:.0f}", side.name, f"{np.median(_all(rounds, 'rate')):.0f}"]
            cells += [f"{np.median(_all(rounds, 'batch')):.1f}", f"{1e6 * np.median(_all(rounds, 'cpu')):.0f}", *parts]
            lines.append(f"| {' | '.join(cells)} | {against:.3f} |")
    return lines


def _all(rounds: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in rounds]


if __name__ == "__main__":
    sys.exit(main())
