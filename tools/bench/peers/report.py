"""The table of the peers: medians of the rounds, and the service against each of them within a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

_OURS = "glimpse"
_KNOBS = ("workers", "threads", "max_batch", "wait_ms")
_HEADS = (
    *("network", "callers", "server", "runtime", "knobs", "images/s", "p50 ms", "p99 ms"),
    *("images a server CPU second", "memory MiB", "Glimpse, images/s", "a CPU second", "p99"),
)
Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """In Markdown. The last three columns are the service's figure over the peer's, the median of those of a round."""
    lines = ["| " + " | ".join(_HEADS) + " |", "|---" * 5 + "|---:" * (len(_HEADS) - 5) + "|"]
    measured = [row for row in rows if "not_started" not in row]
    for key in dict.fromkeys(_key(row) for row in measured):
        network, callers, name, runtime, precision, *knobs = key
        found = [row for row in measured if _key(row) == key]
        best = f"{name} {_version(found[-1])}".strip()
        told = [
            f"{median(row[figure] for row in found):.{digits}f}"
            for figure, digits in (
                ("images_per_second", 1),
                ("p50_ms", 0),
                ("p99_ms", 0),
                ("images_per_server_cpu_second", 1),
                ("pss_mib", 0),
            )
        ]
        workers, threads, max_batch, wait_ms = knobs
        served = (_OURS, network, callers, precision)
        ours = [row for row in measured if tuple(row[k] for k in ("peer", "network", "callers", "precision")) == served]
        ratios = [
            _ratio(ours, found, "images_per_second"),
            _ratio(ours, found, "images_per_server_cpu_second"),
            _ratio(ours, found, "p99_ms"),
        ]
        knob = "its defaults" if name == _OURS else f"{workers} x {threads}, {max_batch}, {wait_ms:g} ms"
        cells = [network, str(callers), best, f"{runtime}, {precision}", knob, *told, *ratios]
        lines.append("| " + " | ".join(cells) + " |")
    reasons = {(row["peer"], row["runtime"]): row["not_started"] for row in rows if "not_started" in row}
    lines += [f"\n{peer}, {runtime}, was not started: {reason}" for (peer, runtime), reason in reasons.items()]
    wrong = sum(row["wrong_answers"] + row["errors"] for row in measured)
    lines.append(f"\n{len(measured)} measurements; {wrong} wrong answers and errors.")
    return "\n".join(lines)


def _key(row: Row) -> tuple[Any, ...]:
    return (
        *(row["network"], row["callers"], row["peer"], row["runtime"], row["precision"]),
        *(row[knob] for knob in _KNOBS),
    )


def _version(row: Row) -> str:
    """The first package is the server; the service's own is that of the checkout."""
    return next(iter(row.get("versions", {}).values()), "")


def _ratio(ours: Sequence[Row], theirs: Sequence[Row], figure: str) -> str:
    """The service's figure over a peer's in the same round; empty where there is none, or it is the service's own."""
    by_round: dict[int, list[float]] = {}
    for row in ours:
        by_round.setdefault(row["round"], []).append(row[figure])
    if theirs[0]["peer"] == _OURS:
        return ""
    found = [median(by_round[row["round"]]) / row[figure] for row in theirs if row["round"] in by_round]
    return f"{median(found):.2f}" if found else ""
