"""Overload: ten times what a server can do. It goes on doing what it can, and turns the rest away cheaply."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from glimpse.client import Client
from tools.bench import machine
from tools.bench.worker import Worker
from tools.load import samples, verdict
from tools.load.replica import Replica
from tools.load.report import Report, Ticker
from tools.load.samples import Sample
from tools.load.tally import quiet

_CALLERS = (8, 24, 48)  # of whom some number gives the maximum; none of them is refused yet, ten times the last are
_GREEDY = 64  # requests that a greedy client keeps in flight
_PATIENCE = 60.0  # seconds until a server that gets nothing has nothing to do

Load = dict[str, Any]


@dataclass(frozen=True)  # no slots: its defaults are those of the command line
class Effort:
    """How much."""

    seconds: float = 20.0  # of each load
    times: float = 10.0  # the maximum
    each: int = 4  # images a request, but for the shipped client, which sends one
    generators: int = 2  # processes of the open loop
    goodput: float = 0.8  # of the maximum, at least
    photos: Literal["raw", "jpeg"] = "raw"


def run(replica: Replica, effort: Effort) -> Report:
    """Press a server that serves and has nothing else to do."""
    report = Report(f"Overload: {effort.times:g} times the maximum")
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("tools.load.pressure")) for _ in range(max(2, effort.generators))]
        ticker = stack.enter_context(Ticker("overload", 7))
        press = Press(replica, effort, workers, ticker)
        before = samples.of_process(replica.pid)
        found: dict[str, Any] = {"maximum": press.maximum()}
        found |= {
            "insisting": press.insisting(max(_CALLERS)),
            "open": press.open(found["maximum"]["load"]),
            "fairness": press.fairness(),
            "deadlines": press.deadlines(found["maximum"]["load"]),
            "again": press.again(found["maximum"]["callers"]),
        }
    rest = _rest(replica)
    found["memory"] = {"before": before.rss, "after": samples.of_process(replica.pid).rss}
    verdict.judge(found, report, each=effort.each, least=effort.goodput)
    report.promise("nothing is in flight at the end, not a byte", quiet(rest))
    faults = replica.faults()
    report.promise("the server logs no defect", not faults, "; ".join(faults[:3]))
    report.data |= found
    return report


class Press:
    """A server, and processes that press it."""

    def __init__(self, replica: Replica, effort: Effort, workers: Sequence[Worker], ticker: Ticker) -> None:
        """Make the requests and connect."""
        self._replica, self._effort, self._workers, self._ticker = replica, effort, workers, ticker
        with Client(replica.target) as client:
            self._shape = client.describe().input
        self._steps = 0
        for worker in workers:
            # One connection, and so one lane, for each: a client is a process here.
            worker.do("connect", target=replica.target, pid=replica.pid, connections=1)
            self._prepare(worker, effort.each)

    def maximum(self) -> Load:
        """The most images a second that a closed loop gets, over a few numbers of callers."""
        seconds = self._effort.seconds / 2
        loads = {callers: self._watched(partial(self._press, callers, seconds)) for callers in _CALLERS}
        best = max(loads, key=lambda callers: loads[callers]["rate"])
        self._step(f"the maximum is {loads[best]['rate']:.0f} images/s with {best} callers")
        return {"callers": best, "load": loads[best], "all": loads}

    def again(self, callers: int) -> Load:
        """The maximum once more, at the end: what the machine's mood changed meanwhile."""
        found = self._watched(partial(self._press, callers, self._effort.seconds / 2))
        self._step("the maximum again")
        return found

    def insisting(self, callers: int) -> dict[str, Load]:
        """The shipped client: as many callers as are never refused, and ten times as many."""
        found = {}
        for name, number in (("once", callers), ("many", round(callers * self._effort.times))):
            found[name] = self._watched(partial(self._insist, number)) | {"callers": number}
            self._step(f"{number} callers with the shipped client")
        return found

    def open(self, most: Load) -> Load:
        """An open loop at ten times the maximum, from several processes."""
        rate = most["rate"] * self._effort.times / self._effort.each / self._effort.generators

        def pour() -> Load:
            pouring = self._workers[: self._effort.generators]
            for seed, worker in enumerate(pouring):
                worker.begin("pour", rate=rate, seconds=self._effort.seconds, seed=seed)
            return together([worker.end() for worker in pouring])

        found = self._watched(pour)
        self._step("open loop")
        return found | {"asked": rate * self._effort.each * self._effort.generators}

    def fairness(self) -> dict[str, Load]:
        """A polite client alone, beside a greedy one, and two greedy ones."""
        seconds = self._effort.seconds / 2
        polite, greedy = self._workers[0], self._workers[1]
        self._prepare(polite, 1)
        alone: Load = polite.do("press", callers=1, seconds=seconds)
        greedy.begin("press", callers=_GREEDY, seconds=1.2 * seconds)
        time.sleep(0.1 * seconds)
        beside: Load = polite.do("press", callers=1, seconds=seconds)
        beside_whom: Load = greedy.end()
        self._prepare(polite, self._effort.each)
        for worker in (polite, greedy):
            worker.begin("press", callers=_GREEDY, seconds=seconds)
        two: list[Load] = [worker.end() for worker in (polite, greedy)]
        self._step("fairness")
        return {"alone": alone, "beside": beside, "greedy": beside_whom, "first": two[0], "second": two[1]}

    def deadlines(self, most: Load) -> Load:
        """Deadlines around what the queue takes, beside a client that keeps the queue full without any."""
        seconds = self._effort.seconds
        filling, hasty = self._workers[0], self._workers[1]
        # So many images in front of it take so long.
        wait = _GREEDY * self._effort.each / most["rate"]
        before = self._replica.metrics()
        filling.begin("press", callers=_GREEDY // 2, seconds=seconds)
        found: Load = hasty.do(
            "press", callers=_GREEDY // 2, seconds=0.9 * seconds, low=0.3 * wait, high=1.5 * wait, seed=1
        )
        filler: Load = filling.end()
        _rest(self._replica)
        after = self._replica.metrics()
        self._step("deadlines")
        return {
            "hasty": found,
            "filler": filler,
            "around": wait,
            "computed": round(after["glimpse_batch_size_sum"] - before["glimpse_batch_size_sum"]),
            "outcomes": grown(before, after, "glimpse_images_total"),
            "dropped": grown(before, after, "glimpse_queue_dropped_images_total"),
        }

    def _prepare(self, worker: Worker, each: int) -> None:
        worker.do("prepare", kind=self._effort.photos, height=self._shape.height, width=self._shape.width, each=each)

    def _press(self, callers: int, seconds: float) -> Load:
        found: Load = self._workers[0].do("press", callers=callers, seconds=seconds)
        return found

    def _insist(self, callers: int) -> Load:
        found: Load = self._workers[0].do(
            "insist", target=self._replica.target, callers=callers, seconds=self._effort.seconds
        )
        return found

    def _watched(self, load: Callable[[], Load]) -> Load:
        """A load with the server's CPU time and memory meanwhile."""
        seen: list[Sample] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                seen.append(samples.of_process(self._replica.pid))

        watcher = threading.Thread(target=watch)
        used = machine.cpu_seconds(self._replica.pid)
        watcher.start()
        try:
            found = load()
        finally:
            over.set()
            watcher.join()
        _rest(self._replica)
        return found | {
            "server_cpu": machine.cpu_seconds(self._replica.pid) - used,
            "rss": [sample.rss for sample in seen],
        }

    def _step(self, what: str) -> None:
        self._steps += 1
        self._ticker.at(self._steps)
        self._ticker.tell(what)


def _rest(replica: Replica) -> Mapping[str, float]:
    """The metrics once nothing is in flight, or after long enough."""
    end = time.monotonic() + _PATIENCE
    while not quiet(found := replica.metrics()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def together(parts: Sequence[Load]) -> Load:
    """One load of those that several processes made at the same time."""
    whole: Load = {
        key: sum(part[key] for part in parts) for key in ("requests", "answered", "images", "rate", "generator_cpu")
    }
    whole |= {key: max(part[key] for part in parts) for key in ("seconds", "sending")}
    for key in ("latency", "late"):
        # Nobody can merge percentiles; the worse of the two is said.
        whole[key] = {
            name: max(part[key][name] for part in parts if part[key])
            for name in next((part[key] for part in parts if part[key]), {})
        }
    whole["refused"] = dict(sum((Counter(part["refused"]) for part in parts), Counter()))
    return whole


def grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> dict[str, int]:
    """By how much a counter grew, by its only label."""
    return {
        key.rpartition("=")[2]: round(value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(f"{name},")
    }
