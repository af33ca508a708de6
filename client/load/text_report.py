"""The report for a terminal or a log, from the figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glimpse.client.load.live import milliseconds
from glimpse.client.nouns import noun

_FEW = 100  # answers, of which 1 % is less than one
_SHOWN = ("p50", "p90", "p99", "p99.9", "max")


def phase(figures: dict[str, Any]) -> str:
    """What is to be said of one phase."""
    return "\n".join(_lines(figures))


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    latency, generator = figures["latency"], figures["generator"]
    yield f"{figures['name']}: {figures['load']['said']}"
    yield (
        f"  answered   {figures['requests_per_second']:,.1f} requests/s, {figures['images_per_second']:,.1f} images/s "
        f"over {figures['seconds']:.1f} s{' (stopped)' if figures['stopped'] else ''}"
    )
    if latency:
        yield "  latency    " + "  ".join(f"{name} {milliseconds(latency[name])}" for name in _SHOWN)
    if figures["stages"]:
        parts = "  ".join(f"{name} {milliseconds(seconds)}" for name, seconds in figures["stages"].items())
        yield f"  stages     {parts}  (means; {figures['batch']:.1f} images a batch)"
    wrong = figures["images"] and figures["error_share"]
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in figures["errors"].items())
    images = f"{figures['images']:,} {noun(figures['images'], 'image')}"
    yield f"  errors     {wrong:.3%} of {images}" + (f": {by_reason}" if by_reason else "")
    if figures["refused_as_expected"]:
        yield f"  expected   {refused_as_expected(figures['refused_as_expected'])}"
    late = generator["late"]
    sent = f", sent late by p50 {milliseconds(late['p50'])} p99 {milliseconds(late['p99'])}" if late else ""
    busy = "" if generator["busy"] is None else f", event loop busy {generator['busy']:.0%}"
    several = f"{generator['processes']} processes, the busiest " if generator["processes"] > 1 else ""
    yield (
        f"  generator  {several}{generator['cpu_share']:.0%} of a core{busy}, {generator['cpu_seconds']:.2f} s of CPU"
        f"{sent if figures['load']['loop'] == 'open' else ''}, {generator['most_in_flight']:,} in flight at most"
    )
    for warning in figures["warnings"]:
        yield f"  WARNING    {warning}"
    for threshold in figures["thresholds"]:
        yield f"  {'met' if threshold['met'] else 'MISSED':10} {threshold['text']} (was {value(threshold)})"


def refused_as_expected(number: int) -> str:
    """Of images that were broken on purpose."""
    refused = noun(number, "image was refused, as it should be", "images were refused, as they should be")
    return f"{number:,} broken {refused}"


def value(threshold: dict[str, Any]) -> str:
    """What a threshold's figure came to, in its own unit."""
    found, text = threshold["value"], threshold["text"]
    if found is None:
        return "nothing: no answers"
    if "%" in text:
        return f"{found:.3%}"
    return f"{found:,.1f}/s" if text.startswith(("requests", "images")) else milliseconds(found)


def knee(report: dict[str, Any]) -> str:
    """The rates that were tried, by rate, and which was the highest that held."""
    found = report["knee"]
    lines = [f"{'requests/s':>12} {'answered/s':>12} {'p50':>10} {'p99':>10} {'errors':>8}  held"]
    for trial in sorted(report["phases"], key=lambda each: float(each["load"]["rate"])):
        latency = trial["latency"]
        lines.append(
            f"{trial['load']['rate']:12,.1f} {trial['requests_per_second']:12,.1f} "
            f"{milliseconds(latency.get('p50')):>10} {milliseconds(latency.get('p99')):>10} "
            f"{trial['error_share']:8.2%}  {said(trial)}"
        )
    limits = f"p99 <= {milliseconds(found['slo'])}, errors <= {found['max_errors']:.3%}"
    if found["rate"] is None:
        lines.append(f"No rate held ({limits}).")
    else:
        lines.append(f"The highest rate that held: {found['rate']:,.4g} requests/s ({limits}).")
    if any(trial["answered"] < _FEW for trial in report["phases"]):
        lines.append(f"WARNING: a p99 of fewer than {_FEW} answers is their worst; take a longer --duration.")
    if found["generator_limited"]:
        lines.append(
            "WARNING: at the lowest rate that failed, the generator could not keep up; the server may hold more."
        )
    return "\n".join(lines)


def said(trial: dict[str, Any]) -> str:
    """Whether a trial's rate held."""
    return {True: "yes", False: "no", None: "stopped"}[trial.get("held")]
