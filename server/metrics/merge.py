"""The metrics of a server of several processes, as one: sums of what its processes count.

For the supervisor, on its event loop:

    metrics = MergedMetrics()                                # in the thread of the running event loop
    metrics.began("worker", "worker 2, pid 4711", ask)       # `ask` is awaited for the process's metrics at each scrape
    await metrics.keep_asking()                              # for as long as the server lives
    metrics.ended("worker 2, pid 4711", restart="ended")     # counters go on from its last values; gauges forget it
    Exposition(host, port, metrics.registry)                 # serves them

For a child process: `dumped(registry)` is what it answers, and `loaded` is what the supervisor makes of that:
`ask` may be `async def ask(): return loaded(read_memory_file(...))`.

Counters and histograms are sums over all processes that have ever been, so that they never fall; of the exemplars of a
bucket, the latest is kept. A process that is killed takes along what it counted since it answered last, so that all are
asked each second (`keep_asking`); `took` hands in what one that ends by itself says on its way out. Gauges are merged
by `GAUGES`, over the processes that are.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_log = structlog.get_logger(__name__)

Rule = Literal["sum", "min", "max"]
Kind = Literal["worker", "engine"]
Cause = Literal["ended", "hung"]
Labels = tuple[tuple[str, str], ...]

KINDS: tuple[Kind, ...] = ("worker", "engine")
# Why a process was replaced: it ended, by itself or by somebody's signal, or the supervisor killed it as it hung.
CAUSES: tuple[Cause, ...] = ("ended", "hung")
READY = "glimpse_ready"

# What a gauge of several processes is. All others are added up: what is in flight, limits, which are divided among the
# workers, memory and open files.
GAUGES: dict[str, Rule] = {
    "glimpse_addresses_blocked": "max",  # each worker blocks what floods it
    "glimpse_build_info": "max",
    "glimpse_credentials_stale": "max",
    "glimpse_drift_stability_index": "max",  # each worker compares what it sees
    "glimpse_model_info": "max",
    "glimpse_model_state": "max",
    "glimpse_precision_agreement": "max",
    "glimpse_precision_speed": "max",
    "glimpse_queue_depth": "max",  # each worker tells what waits in front of the devices, of all workers
    "glimpse_rollout_min_agreement": "max",
    "glimpse_rollout_share": "max",
    "glimpse_samples_bytes": "max",  # all workers keep samples in the same folder
    "glimpse_samples_images": "max",
    READY: "min",  # of the workers alone
    "process_start_time_seconds": "min",
    "python_info": "max",
}
_ADDS_UP = frozenset({"counter", "histogram", "summary"})
_POLL_SECONDS = 1.0  # between two times that all processes are asked, so that no more is lost with one of them
_ANSWER_SECONDS = 1.0  # for a process to answer; a scraper waits for ten by default
_LOOP_SECONDS = 1.0  # more for the event loop, which may have other things to do


def dumped(registry: CollectorRegistry) -> bytes:
    """All metrics of a process, as they are now, to be sent to the supervisor."""
    return pickle.dumps(list(registry.collect()))


def loaded(content: bytes) -> list[Metric]:
    """What `dumped` returned in another process of the same server, which is trusted."""
    found: list[Metric] = pickle.loads(content)  # noqa: S301 - made by a process of ours
    return found


def merge(processes: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The metrics of several processes as one list, in the order in which their names come first."""
    families: dict[str, Metric] = {}
    samples: dict[str, dict[tuple[str, Labels], Sample]] = {}
    for metrics in processes:
        for metric in metrics:
            if metric.name not in families:
                families[metric.name] = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                samples[metric.name] = {}
            rule = "sum" if metric.type in _ADDS_UP else GAUGES.get(metric.name, "sum")
            merged = samples[metric.name]
            for sample in metric.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                before = merged.get(key)
                merged[key] = sample if before is None else _both(before, sample, _rule_of(sample, rule))
    for name, family in families.items():
        family.samples = list(samples[name].values())
    return list(families.values())


def _rule_of(sample: Sample, rule: Rule) -> Rule:
    return "min" if sample.name.endswith("_created") else rule


def _both(one: Sample, other: Sample, rule: Rule) -> Sample:
    pair = one.value, other.value
    value = sum(pair) if rule == "sum" else min(pair) if rule == "min" else max(pair)
    exemplars = [each.exemplar for each in (one, other) if each.exemplar is not None]
    latest = max(exemplars, key=lambda each: float(each.timestamp or 0.0), default=None)
    return one._replace(value=value, exemplar=latest)


@dataclass(slots=True)
class _Process:
    kind: Kind
    ask: Callable[[], Awaitable[list[Metric]]]
    last: list[Metric] = field(default_factory=list)  # what it answered the last time


class MergedMetrics(Collector):
    """The metrics of all processes of a server, its supervisor included. Belongs to the supervisor's event loop.

    `registry` holds them; its `collect` may be called in any thread but that of the event loop, while that runs.
    """

    def __init__(self, *, ready: Callable[[], bool] | None = None, seconds: float = _ANSWER_SECONDS) -> None:
        """Make the supervisor's own metrics. To be called in the thread of the running event loop.

        Args:
            ready: whether the server is SERVING, called on the event loop; None: if all its workers are.
            seconds: that a process may take to answer a scrape; one that is later counts with its last values.
        """
        prometheus_client.disable_created_metrics()
        self._loop = asyncio.get_running_loop()
        self._ready, self._seconds = ready, seconds
        self._processes: dict[str, _Process] = {}
        self._retired: list[Metric] = []  # sums of the counters of those that have ended
        self._gathering: asyncio.Task[None] | None = None
        self._merged: list[Metric] = []
        # What one collector yields as a whole cannot be asked for by its names before it is there.
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        self.registry.register(self)
        self._own = own = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=own)
        prometheus_client.PlatformCollector(registry=own)
        prometheus_client.GCCollector(registry=own)
        self._running = processes_gauge(own)
        self._restarts = restarts_counter(own)

    def began(self, kind: Kind, name: str, ask: Callable[[], Awaitable[list[Metric]]]) -> None:
        """A process has begun.

        Args:
            kind: what it is.
            name: its own, which no process has had before: a replacement needs another one.
            ask: returns its metrics; whatever it raises counts as no answer.
        """
        if name in self._processes:
            raise ValueError(f"There is a process {name!r} already. Name each process anew, by its pid for example.")
        self._processes[name] = _Process(kind, ask)
        self._running.labels(kind).inc()

    def took(self, name: str, metrics: list[Metric]) -> None:
        """Take what a process says of itself without having been asked, such as its last values when it ends."""
        process = self._processes.get(name)
        if process is not None:
            process.last = metrics

    def ended(self, name: str, *, restart: Cause | None = None) -> None:
        """A process has ended, if it is known; `restart`: it is to be replaced, and why. What it counted is kept."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        self._running.labels(process.kind).dec()
        if restart is not None:
            self._restarts.labels(process.kind, restart).inc()
        self._retired = merge([self._retired, [each for each in process.last if each.type in _ADDS_UP]])

    async def keep_asking(self, every: float = _POLL_SECONDS) -> None:
        """Ask all processes, again and again; what was counted since the last answer is lost where one is killed."""
        while True:
            await asyncio.sleep(every)
            await self._ask_all()

    async def gather(self) -> None:
        """Ask all processes at once. Who comes while they are being asked waits for the same answers."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.ensure_future(self._gather())
        await asyncio.shield(self._gathering)

    def collect(self) -> Iterator[Metric]:
        """Ask all processes, and merge what they answer with what they answered before. Not for the event loop."""
        gathered = self.gather()
        try:
            asked = asyncio.run_coroutine_threadsafe(gathered, self._loop)
        except RuntimeError:  # the loop has been closed: the last values are all there is
            gathered.close()
        else:
            try:
                asked.result(self._seconds + _LOOP_SECONDS)
            except (TimeoutError, concurrent.futures.CancelledError):
                asked.cancel()
        yield from self._merged

    async def _gather(self) -> None:
        await self._ask_all()
        # Here, on the loop, where no process ends meanwhile.
        self._merged = self._merge()

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask(name, each) for name, each in self._processes.items()))

    async def _ask(self, name: str, process: _Process) -> None:
        try:
            process.last = await asyncio.wait_for(process.ask(), self._seconds)
        except Exception as error:  # noqa: BLE001 - a scrape is answered, whatever a process does
            _log.debug("no metrics of a process", process_name=name, detail=str(error) or type(error).__name__)

    def _merge(self) -> list[Metric]:
        workers = [each for each in self._processes.values() if each.kind == "worker" and each.last]
        engines = [each for each in self._processes.values() if each.kind == "engine"]
        of_engines = ([metric for metric in each.last if metric.name != READY] for each in engines)
        merged = merge([*(each.last for each in workers), *of_engines, self._retired, self._own.collect()])
        return [*(each for each in merged if each.name != READY), self._readiness(merged)]

    def _readiness(self, merged: list[Metric]) -> Metric:
        found = next((each for each in merged if each.name == READY), None)
        if found is None:  # no worker has answered yet
            (found,) = ready_gauge(CollectorRegistry()).collect()
        if self._ready is not None:
            found.samples = [sample._replace(value=float(self._ready())) for sample in found.samples]
        return found


def processes_gauge(registry: CollectorRegistry) -> Gauge:
    """The gauge of the processes that run."""
    running = Gauge(
        "glimpse_processes",
        "Processes of the server that run, by kind, where it has several.",
        ["kind"],
        registry=registry,
    )
    for kind in KINDS:
        running.labels(kind)
    return running


def restarts_counter(registry: CollectorRegistry) -> Counter:
    """The counter of the processes that had to be replaced."""
    restarts = Counter(
        "glimpse_process_restarts",
        "Processes of the server that were replaced, by kind and by cause: ended, or hung and were killed.",
        ["kind", "cause"],
        registry=registry,
    )
    for kind in KINDS:
        for cause in CAUSES:
            restarts.labels(kind, cause)
    return restarts


def ready_gauge(registry: CollectorRegistry) -> Gauge:
    """The gauge that says whether the server is SERVING."""
    return Gauge(READY, "1 while the server is SERVING, else 0.", registry=registry)
