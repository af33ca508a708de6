"""Metrics of the event loop's own look to Prometheus like the library's."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read

from glimpse.server.metrics.loop import LoopCounter, LoopHistogram

BOUNDS = (0.001, 0.01, 1.0)


def lines(registry: CollectorRegistry) -> list[str]:
    written: bytes = open_metrics(registry)
    return written.decode().splitlines()


def test_a_counter_is_written_as_the_librarys_is() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = (
        LoopCounter("calls", "Calls.", ("kind", "code"), ours),
        Counter("calls", "Calls.", ("kind", "code"), registry=theirs),
    )
    for counter in counters:
        counter.labels("unary", "OK").inc()
        counter.labels("unary", "OK").inc(2)
        counter.labels("stream", "OK")
    assert lines(ours) == [line for line in lines(theirs) if "_created" not in line]


def test_a_histogram_is_written_as_the_librarys_is() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histograms = (
        LoopHistogram("seconds", "Time.", ("kind",), BOUNDS, ours),
        Histogram("seconds", "Time.", ("kind",), buckets=BOUNDS, registry=theirs),
    )
    for histogram in histograms:
        for value in (0.001, 0.0011, 0.5, 3.0, 0.0):
            histogram.labels("unary").observe(value)
        histogram.labels("stream")
    assert lines(ours) == [line for line in lines(theirs) if "_created" not in line]


def test_a_bucket_keeps_its_latest_exemplar() -> None:
    registry = CollectorRegistry()
    times = LoopHistogram("seconds", "Time.", (), BOUNDS, registry).labels()
    times.observe(0.5, {"trace_id": "first"})
    times.observe(0.6, {"trace_id": "second"})
    times.observe(0.7)
    (family,) = read(open_metrics(registry).decode())
    exemplars = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    assert {le: (each.labels["trace_id"], each.value) for le, each in exemplars.items()} == {"1.0": ("second", 0.6)}


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    LoopCounter("calls", "Calls.", (), registry)
    with pytest.raises(ValueError, match="Duplicated"):
        LoopCounter("calls", "Calls.", (), registry)
