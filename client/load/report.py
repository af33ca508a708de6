"""The whole of a run as one value: what JSON files hold, and what the HTML report is drawn from."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from glimpse.client.load.figures import generator_kept

if TYPE_CHECKING:
    from glimpse.client.results import ModelDescription


def whole(
    phases: list[dict[str, Any]], *, target: str, images: str, described: ModelDescription, started: datetime
) -> dict[str, Any]:
    """A run's report.

    Args:
        phases: the figures of each, in their order.
        target: that was called.
        images: what was sent, for people.
        described: the server's model before the run.
        started: when it began.
    """
    import grpc

    return {
        "format": 1,
        "target": target,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "images": images,
        "model": {
            "name": described.model.name,
            "version": described.model.version,
            "weights_digest": described.model.weights_digest,
            "runtime": described.runtime.name,
            "device": described.runtime.device,
            "precision": described.runtime.precision,
        },
        "generator": {"python": platform.python_version(), "grpc": grpc.__version__},
        "phases": phases,
        "knee": None,
    }


def with_knee(report: dict[str, Any], rate: float | None, *, slo: float, max_errors: float) -> dict[str, Any]:
    """The report of a search.

    Args:
        report: with the trials as its phases.
        rate: the highest that held; None where none did.
        slo: seconds that p99 was allowed.
        max_errors: share of the images that was allowed to fail.
    """
    failed = [trial for trial in report["phases"] if trial.get("held") is False]
    lowest = min(failed, key=lambda trial: float(trial["load"]["rate"]), default=None)
    limited = lowest is not None and not generator_kept(lowest)
    return {**report, "knee": {"rate": rate, "slo": slo, "max_errors": max_errors, "generator_limited": limited}}


def missed(report: dict[str, Any]) -> bool:
    """Whether any threshold was; of a search for the knee, whether no rate held."""
    if report["knee"] is not None and report["knee"]["rate"] is None:
        return True
    return any(not threshold["met"] for phase in report["phases"] for threshold in phase["thresholds"])


def failures(report: dict[str, Any]) -> tuple[int, int]:
    """Images that failed in phases whose thresholds do not say how many may, and all images of those phases.

    None of a search for the knee, which looks for the rate at which they fail.
    """
    if report["knee"] is not None:
        return 0, 0
    judged = [
        phase
        for phase in report["phases"]
        if not any(each["text"].startswith("errors") for each in phase["thresholds"])
    ]
    return sum(sum(phase["errors"].values()) for phase in judged), sum(phase["images"] for phase in judged)


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
