"""A phase's books as plain figures, for the text, JSON and HTML reports alike. Times are seconds, shares 0..1."""

from __future__ import annotations

from typing import Any

from glimpse.client.load.driver import PhaseRun
from glimpse.client.load.tally import NOT_SENT, STAGES, Interval, Tally
from glimpse.client.nouns import noun

_LATE = 0.010  # seconds: p99 of the sending above it is said to be late
_BUSY = 0.80  # of one core, which is all that an event loop has
_LIMIT = 0.90  # of the time: an event loop that waits for less has no time left
_FEW = 100  # answers, of which 1 % is less than one
_KEPT = 0.99  # share of the due requests that have to be sent


def of(ran: PhaseRun) -> dict[str, Any]:
    """All figures of a phase."""
    tally, plan = ran.tally, ran.plan
    seconds = tally.seconds
    figures: dict[str, Any] = {
        "name": plan.name,
        "load": {
            "said": plan.said(),
            "loop": "open" if plan.rate else "closed",
            "rate": plan.rate or None,
            "callers": None if plan.rate else plan.callers,
            "images_per_call": plan.images_per_call,
            "stream": plan.stream,
            "bad": plan.bad,
            "timeout": plan.timeout,
            "warm_up": plan.warm_up,
        },
        "stopped": ran.stopped,
        "seconds": seconds,
        "requests": tally.requests,
        "answered": tally.latency.count,
        "images": tally.images,
        "classified": tally.classified,
        "refused_as_expected": tally.expected,
        "errors": dict(tally.errors.most_common()),
        "error_share": tally.errors.total() / tally.images if tally.images else 0.0,
        "requests_per_second": tally.in_time.requests / seconds if seconds else 0.0,
        "images_per_second": tally.in_time.images / seconds if seconds else 0.0,
        "latency": tally.latency.figures(),
        "distribution": [[edge, count] for edge, count in tally.latency.buckets()],
        "stages": stages(tally.all),
        "batch": tally.batches / tally.all.staged if tally.all.staged else 0.0,
        "generator": {
            "processes": len(ran.usages),
            "cpu_seconds": sum(usage.cpu_seconds for usage in ran.usages),
            # Of the busiest process, of one core and of the time; the others are `each`.
            "cpu_share": max(usage.cpu_share for usage in ran.usages),
            "busy": max((usage.busy for usage in ran.usages if usage.busy is not None), default=None),
            "each": [
                {"cpu_seconds": usage.cpu_seconds, "cpu_share": usage.cpu_share, "busy": usage.busy}
                for usage in ran.usages
            ],
            "late": tally.late.figures(),
            "most_in_flight": tally.most_in_flight,
            "not_sent": tally.errors[NOT_SENT],
        },
        "timeline": _timeline(tally),
    }
    figures["warnings"] = warnings(figures)
    figures["thresholds"] = [threshold.check(figures) for threshold in plan.thresholds]
    return figures


def stages(moment: Interval) -> dict[str, float]:
    """Mean seconds of each stage; nothing where no answer told them."""
    if not moment.staged:
        return {}
    return {name: total / moment.staged for name, total in zip(STAGES, moment.stages, strict=True)}


def warnings(figures: dict[str, Any]) -> list[str]:
    """What makes the figures those of the generator rather than of the server."""
    generator, said = figures["generator"], []
    late = generator["late"].get("p99", 0.0)
    is_open = figures["load"]["loop"] == "open"
    if lost := generator["not_sent"]:
        said.append(
            f"{lost:,} {noun(lost, 'image was', 'images were')} due and not sent: the generator did not keep up with "
            f"the rate of {figures['load']['rate']:g} requests/s, or had too many in flight. These count as errors."
        )
    if is_open and late > _LATE:
        said.append(
            f"Requests were sent late: p99 {late * 1000:.0f} ms after they were due. Their latency includes this delay."
        )
    if (generator["busy"] or 0.0) > _LIMIT:
        whose = "its event loop" if generator["processes"] == 1 else "the event loop of its busiest process"
        said.append(
            f"The generator was the limit, not the server: {whose} was busy for {generator['busy']:.0%} of the time. "
            f"Use more than --processes {generator['processes']}, or other machines."
        )
    elif generator["cpu_share"] > _BUSY:
        said.append(
            f"The generator used {generator['cpu_share']:.0%} of a core, and one is the most it can use: it may be "
            "the limit rather than the server. Use more --processes, or other machines."
        )
    if not figures["latency"]:
        said.append("Not one request was answered.")
    elif figures["answered"] < _FEW:
        said.append(
            f"p99 of {figures['answered']} {noun(figures['answered'], 'request')} is little more than the slowest of "
            "them: send more requests."
        )
    return said


def generator_kept(figures: dict[str, Any]) -> bool:
    """Whether the generator sent what it was to send, so that a failure is the server's."""
    unsent = figures["generator"]["not_sent"] / figures["images"] if figures["images"] else 0.0
    return unsent <= 1 - _KEPT and figures["generator"]["late"].get("p99", 0.0) <= 5 * _LATE


def _timeline(tally: Tally) -> list[dict[str, Any]]:
    """One entry a stretch of time, by when answers came."""
    entries: list[dict[str, Any]] = []
    for number, moment in enumerate(tally.moments):
        at = number * tally.width
        seconds = min(tally.width, tally.seconds - at)
        if seconds < tally.width / 4 and entries:  # the last one, too short for a rate
            continue
        figures = moment.latency.figures()
        entries.append(
            {
                "at": at,
                "seconds": seconds,
                "requests": moment.requests,
                "images": moment.images,
                "errors": moment.errors,
                "p50": figures.get("p50"),
                "p99": figures.get("p99"),
                "stages": stages(moment),
            }
        )
    return entries
