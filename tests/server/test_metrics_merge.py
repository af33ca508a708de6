"""The metrics of several processes as those of one server."""

from __future__ import annotations

import asyncio
import functools
import shutil
import subprocess
import urllib.request
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from glimpse.server.metrics.exposition import Exposition
from glimpse.server.metrics.merge import GAUGES, MergedMetrics, dumped, loaded, merge
from glimpse.server.metrics.metrics import Metrics

LONG = 30.0  # seconds; until something is called hung


def values(metrics: list[Metric]) -> dict[str, float]:
    """The samples of all families, by name and labels."""
    return {
        sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def sent(registry: CollectorRegistry) -> list[Metric]:
    return loaded(dumped(registry))


def asked(registry: CollectorRegistry) -> Callable[[], Awaitable[list[Metric]]]:
    async def ask() -> list[Metric]:
        return sent(registry)

    return ask


async def now(merged: MergedMetrics) -> dict[str, float]:
    return values(await asyncio.to_thread(lambda: list(merged.registry.collect())))


def counting(count: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("seen", "So many.", registry=registry).inc(count)
    Gauge("held", "So many now.", registry=registry).set(count)
    return registry


def test_counters_and_histograms_are_sums_for_each_label() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry, label, seconds in zip(registries, ("a", "b"), (0.5, 3.0), strict=True):
        counter = Counter("calls", "Calls.", ["method"], registry=registry)
        counter.labels("both").inc(2)
        counter.labels(label).inc()
        Histogram("seconds", "Seconds.", buckets=(1.0, 5.0), registry=registry).observe(seconds)
    merged = values(merge(map(sent, registries)))
    assert {name: value for name, value in merged.items() if not name.split("|")[0].endswith("_created")} == {
        "calls_total|both": 4,
        "calls_total|a": 1,
        "calls_total|b": 1,
        "seconds_bucket|1.0": 1,
        "seconds_bucket|5.0": 2,
        "seconds_bucket|+Inf": 2,
        "seconds_count": 2,
        "seconds_sum": 3.5,
    }


def test_the_latest_exemplar_of_a_bucket_is_kept() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry, trace in zip(registries, ("early", "late"), strict=True):
        Histogram("seconds", "Seconds.", buckets=(1.0,), registry=registry).observe(0.5, {"trace_id": trace})
    for order in (registries, registries[::-1]):
        (family,) = merge(map(sent, order))
        (bucket,) = (sample for sample in family.samples if sample.labels.get("le") == "1.0")
        assert bucket.exemplar is not None
        assert bucket.exemplar.labels == {"trace_id": "late"}


@pytest.mark.parametrize(
    ("name", "merged"),
    [("held", 5), ("glimpse_ready", 2), ("glimpse_addresses_blocked", 3), ("glimpse_queue_depth", 3)],
)
def test_a_gauge_is_merged_by_its_rule(name: str, merged: float) -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry, value in zip(registries, (2, 3), strict=True):
        Gauge(name, "Some.", registry=registry).set(value)
    assert values(merge(map(sent, registries))) == {name: merged}


def test_every_gauge_with_a_rule_is_one_that_servers_have() -> None:
    names = {metric.name for metric in Metrics().registry.collect() if metric.type == "gauge"}
    assert GAUGES.keys() <= names


def test_what_a_process_counted_stays_when_it_has_ended() -> None:
    async def scenario() -> None:
        merged = MergedMetrics()
        merged.began("worker", "worker 1", asked(counting(3)))
        merged.began("worker", "worker 2", asked(counting(4)))
        before = await now(merged)
        assert (before["seen_total"], before["held"], before["glimpse_processes|worker"]) == (7, 7, 2)
        merged.ended("worker 2", restart="ended")
        merged.began("worker", "worker 3", asked(counting(1)))
        after = await now(merged)
        assert (after["seen_total"], after["held"], after["glimpse_processes|worker"]) == (8, 4, 2)
        assert after["glimpse_process_restarts_total|worker|ended"] == 1
        assert after["glimpse_process_restarts_total|engine|hung"] == 0

    asyncio.run(scenario())


def test_the_last_words_of_a_process_are_counted() -> None:
    async def scenario() -> None:
        merged = MergedMetrics()
        merged.began("engine", "engine 0", asked(counting(3)))
        await now(merged)
        merged.took("engine 0", sent(counting(10)))
        merged.ended("engine 0")
        assert (await now(merged))["seen_total"] == 10

    asyncio.run(scenario())


def test_what_a_killed_process_counted_since_the_last_scrape_is_kept() -> None:
    """No scrape asks for it: it is asked for again and again."""

    async def scenario() -> None:
        merged, counts = MergedMetrics(), 3
        questions: asyncio.Queue[None] = asyncio.Queue()

        async def ask() -> list[Metric]:
            questions.put_nowait(None)
            return sent(counting(counts))

        merged.began("worker", "worker 1", ask)
        asking = asyncio.create_task(merged.keep_asking(every=0.0))
        await questions.get()
        counts = 10
        for _ in range(3):  # when it is asked again, the answer before has been taken
            await questions.get()
        asking.cancel()
        merged.ended("worker 1", restart="ended")
        assert (await now(merged))["seen_total"] == 10

    asyncio.run(scenario())


def test_who_does_not_answer_in_time_counts_with_the_last_values() -> None:
    async def scenario() -> None:
        hangs = False
        registry = counting(3)

        async def ask() -> list[Metric]:
            if hangs:
                await asyncio.Event().wait()
            return sent(registry)

        async def breaks() -> list[Metric]:
            raise ConnectionError

        merged = MergedMetrics(seconds=0.05)
        merged.began("worker", "worker 1", ask)
        merged.began("worker", "worker 2", asked(counting(1)))
        merged.began("worker", "worker 3", breaks)
        assert (await now(merged))["seen_total"] == 4
        hangs = True
        assert (await now(merged))["seen_total"] == 4

    asyncio.run(scenario())


def test_who_comes_while_processes_are_asked_waits_for_the_same_answers() -> None:
    async def scenario() -> None:
        questions = 0
        both = asyncio.Event()

        async def ask() -> list[Metric]:
            nonlocal questions
            questions += 1
            await both.wait()
            return []

        merged = MergedMetrics(seconds=LONG)
        merged.began("worker", "worker 1", ask)
        first, second = asyncio.create_task(merged.gather()), asyncio.create_task(merged.gather())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()  # one who leaves takes nothing from the other
        both.set()
        await second
        assert questions == 1

    asyncio.run(scenario())


def test_a_server_is_ready_if_all_workers_are_or_as_it_is_told() -> None:
    """An engine, which serves nobody itself, has no say in it."""

    async def scenario() -> None:
        workers, engine = [Metrics(), Metrics()], Metrics()
        for told, expected in ((None, (0, 0, 1)), (True, (1, 1, 1)), (False, (0, 0, 0))):
            merged = MergedMetrics(ready=None if told is None else functools.partial(bool, told))
            assert (await now(merged))["glimpse_ready"] == expected[0]
            for number, each in enumerate(workers):
                merged.began("worker", str(number), asked(each.registry))
            merged.began("engine", "engine", asked(engine.registry))
            workers[0].ready(ready=True)
            workers[1].ready(ready=False)
            assert (await now(merged))["glimpse_ready"] == expected[1]
            workers[1].ready(ready=True)
            assert (await now(merged))["glimpse_ready"] == expected[2]

    asyncio.run(scenario())


def test_a_name_is_given_once() -> None:
    async def scenario() -> None:
        merged = MergedMetrics()
        merged.began("worker", "worker 1", asked(counting(1)))
        with pytest.raises(ValueError, match="Name each process anew"):
            merged.began("worker", "worker 1", asked(counting(1)))
        merged.ended("unknown")

    asyncio.run(scenario())


def test_the_last_values_are_there_when_the_event_loop_has_ended() -> None:
    async def scenario() -> MergedMetrics:
        merged = MergedMetrics()
        merged.began("worker", "worker 1", asked(counting(3)))
        await merged.gather()
        return merged

    assert values(list(asyncio.run(scenario()).registry.collect()))["seen_total"] == 3


def busy(trace: str) -> Metrics:
    metrics = Metrics()
    rpc = metrics.rpcs.of("unary", "glimpse.v1.ImageClassifier", "Classify")
    rpc.began()
    rpc.ended("OK", 0.002, {"trace_id": trace})
    metrics.of("resnet50", "1")
    metrics.ready(ready=True)
    return metrics


def scraped(processes: list[tuple[str, Metrics]], path: str, accept: str) -> str:
    """What a scraper gets of such processes, over HTTP."""
    answers: list[str] = []

    async def scenario() -> None:
        merged = MergedMetrics()
        for number, (kind, metrics) in enumerate(processes):
            merged.began("worker" if kind == "worker" else "engine", f"{kind} {number}", asked(metrics.registry))
        exposed = Exposition("127.0.0.1", 0, merged.registry)

        def scrape() -> None:
            url = f"http://127.0.0.1:{exposed.port}{path}"
            request = urllib.request.Request(url, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=LONG) as response:  # noqa: S310 - the same
                answers.append(response.read().decode())

        try:
            await asyncio.to_thread(scrape)
        finally:
            await asyncio.to_thread(exposed.close)

    asyncio.run(scenario())
    return answers[0]


def test_promtool_finds_nothing_to_complain_of_in_merged_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    text = scraped([("worker", busy("1")), ("worker", busy("2")), ("engine", busy("3"))], "/metrics", "text/plain")
    check = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


def test_merged_metrics_are_served_as_openmetrics_with_exemplars() -> None:
    text = scraped([("worker", busy("1")), ("worker", busy("2"))], "/metrics", "application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"glimpse_processes", "glimpse_process_restarts", "glimpse_build_info"} <= families.keys()
    samples = families["grpc_server_handling_seconds"].samples
    assert [sample.value for sample in samples if sample.name.endswith("_count")] == [2]
    assert [sample.exemplar.labels for sample in samples if sample.exemplar] == [{"trace_id": "2"}]


def test_merged_metrics_can_be_asked_for_by_name() -> None:
    text = scraped([("worker", busy("1"))], "/metrics?name[]=glimpse_ready", "text/plain")
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["glimpse_ready 1.0"]
