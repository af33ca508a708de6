"""The metrics of the server, from the instruments that it counts with."""

from __future__ import annotations

from collections import defaultdict

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from docs.generate.markdown import anchor, code, table
from glimpse.server.metrics import merge
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.metrics.stages import StageSeconds

_HEADER = ("name", "type", "labels", "meaning")

_RULES: dict[merge.Rule, str] = {"min": "the least of all processes", "max": "the greatest of all processes"}

_ABOUT = """\
# Metrics

Prometheus reads the metrics from `/metrics` on the metrics port. A histogram has the series `_bucket`, `_sum` and
`_count`. If the values of a label are known beforehand, they are listed here, and their series exist from the start
with the value 0. Reasons are those of the [errors](errors.md).

The stages of an image follow one another without a gap: `receive` (until the message has arrived; 0 on a stream),
`admission` (until the request is admitted), `decode_wait` (waiting for a decoder), `decode`, `pre_stem`
(preprocessing), `queue` (waiting for the device), `compute` (inference), `reply` (waiting for the other images of the
request, and making the reply). For answered calls, the stages add up to `grpc_server_handling_seconds`,
once for each image of a call.

A server of several processes has one `/metrics`, at its supervisor. Counters and histograms are sums over all its
processes, and keep what a process counted that has ended. The supervisor asks each process once a second, so that of
one that is killed no more is lost than what it counted since then. Gauges are sums, too, over the processes that run,
but for those listed here. A process that does not answer within a second counts with its last values.
"""


def page() -> str:
    """Every series of /metrics."""
    metrics = Metrics()
    parts = metrics, metrics.rpcs, metrics.models, metrics.rollouts
    there = [each for part in parts for each in vars(part).values()]
    instruments = [each for each in there if isinstance(each, MetricWrapperBase)]
    # Of the supervisor, where there is one.
    instruments += [merge.processes_gauge(metrics.registry), merge.restarts_counter(metrics.registry)]
    labels = {family.name: tuple(each._labelnames) for each in instruments for family in each.describe()}  # noqa: SLF001 - there is no public way to the names of labels that have no values yet
    labels[StageSeconds.name] = StageSeconds.labels
    metrics.of("", "")  # the stages of a model are there from when it is
    families = sorted(metrics.registry.collect(), key=lambda family: family.name)
    # Of what is counted elsewhere and only collected here, the family has the names of the labels.
    labels |= {
        each.name: tuple(getattr(each, "_labelnames", ()))
        for each in families
        if each.name not in labels and each.name.startswith("glimpse_")
    }
    ours = [family for family in families if family.name in labels]
    others = [family for family in families if family.name not in labels]
    return "\n".join(
        [
            _ABOUT,
            "## Of the service\n",
            table(_HEADER, [_cells(family, labels[family.name]) for family in ours]),
            "## Of the process and of Python\n",
            "These come from Prometheus' Python library; those that a platform does not provide are left out.\n",
            table(_HEADER, [_cells(family, ()) for family in others]),
            "## Gauges of several processes that are not sums\n",
            table(("value", "gauges"), [_ruled(rule) for rule in _RULES]),
        ]
    )


def _ruled(rule: merge.Rule) -> list[str]:
    return [_RULES[rule], ", ".join(code(name) for name, each in sorted(merge.GAUGES.items()) if each == rule)]


def _cells(family: Metric, labels: tuple[str, ...]) -> list[str]:
    name = family.name + ("_total" if family.type == "counter" else "")
    values: dict[str, set[str]] = defaultdict(set)
    for sample in family.samples:
        for label, value in sample.labels.items():
            if value:
                values[label].add(value)
    shown = [code(label) + (f": {', '.join(sorted(values[label]))}" if values.get(label) else "") for label in labels]
    return [f"{anchor(name)}`{name}`", family.type, "<br>".join(shown), family.documentation]
