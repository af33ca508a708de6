"""A soak: a hundred thousand requests of every kind against one server, which must be at the end as at the beginning.

The run goes in stations. Between two of them a few callers send requests of all kinds, and a burst above the limit
now and then while nobody else sends, so that a lone request has no excuse for being refused. At a station nobody sends,
and once the server has had the time to give memory back, it is looked at: that is the same kind of moment each time.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from glimpse.client import Client
from glimpse.client.results import Limits
from tools.load import kinds, pictures, samples
from tools.load.report import Report, Ticker, counts
from tools.load.samples import Sample
from tools.load.tally import Tally, judge, open_calls, quiet
from tools.load.wire import Wire

_CALLERS = 6
_ROUND = 500  # requests at most between two bursts
_BURST_IMAGES = 8  # a call
_SHARED = 1.0  # MB by which the second half may have more than the first: pages of what is there come in as needed
_PATIENCE = 60.0  # seconds until a server that gets nothing has nothing to do


@dataclass(frozen=True, slots=True)
class Subject:
    """The server that is soaked."""

    target: str
    metrics: Callable[[], Mapping[str, float]]
    pid: int | None  # None: not on this machine, or not ours


@dataclass(frozen=True)  # no slots: its defaults are those of the command line
class Effort:
    """How much."""

    requests: int = 100_000
    stations: int = 40
    pause: float = 6.0  # seconds at each: the server gives memory back every 5
    grown: float = 20.0  # MB by which its memory may grow
    seed: int = 1
    large: bool = True  # photos of 12 megapixels, too


def run(subject: Subject, effort: Effort) -> Report:
    """Soak a server that serves and has nothing else to do."""
    report = Report(f"Soak: {effort.requests:,} requests")
    with Client(subject.target) as client:
        sent = pictures.learn(client, large=effort.large)
        limits = client.describe().limits
    soak = _Soak(subject, effort, sent, limits)
    before = soak.wait_until_quiet()
    begun = time.monotonic()
    try:
        soak.go()
        after = soak.wait_until_quiet()
    except OSError as error:  # no metrics any more, or no process
        # What callers met until then is worth telling all the same.
        report.promise("the server lives to the end", held=False, found=f"{error}; {'; '.join(soak.tally.surprises)}")
        after = before
    seconds = time.monotonic() - begun
    judge(soak.tally, before, after, report)
    _bursts(soak.tally, report)
    _machine(soak.stations, effort, report)
    for kind, found in sorted(soak.tally.outcomes.items()):
        report.figures[kind] = counts(found)
    report.figures["requests a second"] = f"{soak.tally.requests / seconds:.0f}"
    report.data |= {
        "tally": soak.tally.as_data(),
        "seconds": seconds,
        "stations": samples.as_data(soak.stations),
        "peak_rss": max((sample.rss for sample in soak.stations + soak.between), default=0),
    }
    return report


class _Soak:
    """The run itself."""

    def __init__(self, subject: Subject, effort: Effort, sent: pictures.Pictures, limits: Limits) -> None:
        self._subject, self._effort = subject, effort
        self._sent, self._limits = sent, limits
        # Calls: of twice as many images as are let in, a machine with many cores answers all while they are sent.
        self._burst = 4 * limits.max_images_in_flight // _BURST_IMAGES
        self._random = random.Random(effort.seed)
        self._watchers = open_calls(subject.metrics())  # who watches its health is there before and after
        self.tally = Tally()
        self.stations: list[Sample] = []
        self.between: list[Sample] = []  # under load

    def go(self) -> None:
        """Send everything."""
        with ExitStack() as stack:
            wires = [stack.enter_context(self._wire()) for _ in range(_CALLERS)]
            flood = stack.enter_context(self._wire())
            callers = stack.enter_context(ThreadPoolExecutor(_CALLERS))
            ticker = stack.enter_context(Ticker("soak", self._effort.requests))
            self._look(self.stations)
            for station in range(1, self._effort.stations + 1):
                upto = self._effort.requests * station // self._effort.stations
                while self.tally.requests < upto:
                    self._round(callers, wires, max(0, min(_ROUND, upto - self.tally.requests - self._burst)))
                    self._flood(flood, min(self._burst, upto - self.tally.requests))
                    self._look(self.between)
                    ticker.at(self.tally.requests, f"rss {self.between[-1].rss / 1e6:.0f} MB")
                self.wait_until_quiet()
                time.sleep(self._effort.pause)
                self._look(self.stations)

    def wait_until_quiet(self) -> Mapping[str, float]:
        """The metrics of a server that has nothing to do, or of one that does not come to rest."""
        end = time.monotonic() + _PATIENCE
        while True:
            found = self._subject.metrics()
            # Handlers end a moment after their answers, so the gauges alone are too early.
            if (quiet(found) and open_calls(found) <= self._watchers) or time.monotonic() >= end:
                return found
            time.sleep(0.1)

    def _wire(self) -> Wire:
        return Wire(self._subject.target, self._sent, self._limits)

    def _round(self, callers: ThreadPoolExecutor, wires: list[Wire], requests: int) -> None:
        seeds = [self._random.randrange(2**32) for _ in wires]
        turns = itertools.count()
        lock = threading.Lock()

        def work(wire: Wire, seed: int) -> None:
            generator = random.Random(seed)
            while True:
                with lock:
                    if next(turns) >= requests:
                        return
                kind = kinds.choose(generator)
                if kind == "large photo" and not self._sent.large:
                    kind = "photo"
                self.tally.add(kind, kinds.KINDS[kind].run(wire, generator))

        for ended in [callers.submit(work, wire, seed) for wire, seed in zip(wires, seeds, strict=True)]:
            ended.result()

    def _flood(self, wire: Wire, calls: int) -> None:
        for outcome in kinds.burst(wire, calls, _BURST_IMAGES, self._random):
            self.tally.add(kinds.BURST, outcome)
        self.wait_until_quiet()  # what its last answers held is given back a moment after them

    def _look(self, into: list[Sample]) -> None:
        pid = self._subject.pid
        into.append(
            samples.of_tree(pid, self.tally.requests)
            if pid is not None
            else samples.of_metrics(self._subject.metrics(), self.tally.requests)
        )


def _bursts(tally: Tally, report: Report) -> None:
    found = tally.outcomes.get(kinds.BURST, Counter())
    full = sum(number for name, number in found.items() if name in kinds.FULL)
    report.promise("bursts above the limit were refused in part", full, counts(found))


def _machine(stations: list[Sample], effort: Effort, report: Report) -> None:
    """What all processes of the server hold together at its quiet moments, after the warm-up."""
    warm = samples.after_warm_up(stations, effort.requests)
    if len(warm) < 2:
        report.figures["memory, files and threads"] = "not judged: too few stations"
        return
    grown = samples.growth(warm) / 1e6
    report.promise(f"resident memory grows by at most {effort.grown:.0f} MB", grown <= effort.grown, f"{grown:+.1f} MB")
    report.figures["resident memory, MB"] = " ".join(f"{sample.rss / 1e6:.0f}" for sample in warm)
    half = len(warm) // 2
    shared = [one.shared / 1e6 for one in warm]
    more = max(shared[half:]) - max(shared[:half])
    report.figures["shared memory, MB"] = " ".join(f"{each:.1f}" for each in shared)
    report.promise(f"shared memory grows by at most {_SHARED:.0f} MB", more <= _SHARED, f"{more:+.1f} MB")
    report.figures["threads of gRPC's pool"] = " ".join(str(one.pool) for one in warm)
    for name, values in (
        ("open files", [one.fds for one in warm]),
        ("threads", [one.threads for one in warm]),
        ("processes", [one.processes for one in warm]),
    ):
        report.figures[name] = " ".join(map(str, values))
        # Pools fill up to their size and no further, so the second half decides.
        report.promise(
            f"{name} do not grow",
            max(values[half:]) <= max(values[:half]),
            f"{values[0]} to {values[-1]}",
        )
