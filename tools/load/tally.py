"""The book-keeping of a soak: what callers saw, and whether the server counted the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Any

from tools.load.kinds import EXPECTED
from tools.load.report import Report, counts
from tools.load.wire import Outcome

_SHOWN = 20  # surprises that are kept in full
# The server may or may not have told a caller who had gone by then.
_UNSURE_REASONS = frozenset({"DEADLINE_EXCEEDED"})
_GAUGES = ("glimpse_images_in_flight", "glimpse_image_bytes_in_flight", "glimpse_queue_depth")


class Tally:
    """What came of the requests. Safe to share between threads."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = Lock()
        self.requests = 0
        self.outcomes: dict[str, Counter[str]] = {}
        self.classified = 0
        self.refused: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.unsure = 0
        self.surprises: list[str] = []
        self.surprised = 0

    def add(self, kind: str, outcome: Outcome) -> None:
        """One more request."""
        with self._lock:
            self.requests += 1
            self.outcomes.setdefault(kind, Counter())[outcome.name] += 1
            self.classified += outcome.classified
            self.refused.update(outcome.refused)
            self.rejected.update(outcome.rejected)
            self.unsure += outcome.unsure
            if outcome.name not in EXPECTED[kind]:
                self.surprised += 1
                if len(self.surprises) < _SHOWN:
                    self.surprises.append(f"{kind}: {outcome.name} {outcome.detail}".strip())

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "requests": self.requests,
            "outcomes": {kind: dict(found) for kind, found in sorted(self.outcomes.items())},
            "classified": self.classified,
            "refused": dict(self.refused),
            "rejected": dict(self.rejected),
            "unsure": self.unsure,
            "surprised": self.surprised,
            "surprises": self.surprises,
        }


def judge(tally: Tally, before: Mapping[str, float], after: Mapping[str, float], report: Report) -> None:
    """Compare what callers saw with what the server counted between two looks at its metrics."""

    def counted(name: str) -> Counter[str]:
        """A counter's growth by its only label."""
        return Counter(
            {
                key.rpartition("=")[2]: round(value - before.get(key, 0.0))
                for key, value in after.items()
                if key.startswith(f"{name},") and value != before.get(key, 0.0)
            }
        )

    report.promise(
        "every outcome is of a kind that its request may have",
        not tally.surprised,
        f"{tally.surprised} are not: {'; '.join(tally.surprises[:5])}" if tally.surprised else f"{tally.requests:,}",
    )
    images = counted("glimpse_images_total")
    certain = tally.classified + tally.refused.total()
    unsure = f"; of {tally.unsure:,} more the caller had gone"
    report.promise(
        "every image that was admitted ended in exactly one outcome",
        certain <= images.total() <= certain + tally.unsure,
        f"the server counted {images.total():,} ({counts(images)}), callers saw {certain:,}{unsure}",
    )
    report.promise(
        "the server classified what callers got",
        tally.classified <= images["classified"] <= tally.classified + tally.unsure,
        f"{images['classified']:,} and {tally.classified:,}{unsure}",
    )
    report.promise("no image failed by a defect", not images["failed"], images["failed"])
    refused = counted("glimpse_images_refused_total")
    report.promise(
        "images were refused for the reasons that callers were told",
        refused == tally.refused,
        f"{counts(refused)}" + ("" if refused == tally.refused else f"; callers: {counts(tally.refused)}"),
    )
    rejected, told = (
        Counter({reason: number for reason, number in found.items() if reason not in _UNSURE_REASONS})
        for found in (counted("glimpse_requests_rejected_total"), tally.rejected)
    )
    # gRPC turns these away by itself; all that the server sees of one is a call that ends without a message.
    oversized = tally.outcomes.get("oversized message", Counter()).total()
    more = rejected - told
    report.promise(
        "requests were rejected for the reasons that callers were told",
        not told - rejected and more.keys() <= {"MALFORMED_MESSAGE"} and more.total() <= oversized,
        f"{counts(rejected)}"
        + ("" if rejected == told else f"; callers: {counts(told)}, and {oversized} oversized messages"),
    )
    left = open_calls(after) - open_calls(before)
    # Fewer is well: what asked for the labels may have hung up after the first look.
    report.promise("every call that began has ended", left <= 0, f"{left} have not" if left > 0 else "")
    busy = {name: after[name] for name in _GAUGES if after[name]}
    report.promise("nothing is in flight at the end, not a byte", not busy, busy or "")


def quiet(metrics: Mapping[str, float]) -> bool:
    """Whether the server has nothing to do."""
    return not any(metrics[name] for name in _GAUGES)


def open_calls(metrics: Mapping[str, float]) -> int:
    """Calls that have begun and not ended: those who watch the server's health are among them."""
    return round(
        sum(
            sign * value
            for name, sign in (("started", 1), ("handled", -1))
            for key, value in metrics.items()
            if key.startswith(f"grpc_server_{name}_total,")
        )
    )
