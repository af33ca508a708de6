"""A comparison as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from glimpse.models.comparison.compare import Result

COLUMNS = (
    *("model", "variant", "top-1", "95% interval", "top-5", "ECE", "multiply-adds", "parameters"),
    *("images/s", "ms", "batch", "runtime"),
)


def row(result: Result) -> tuple[str, ...]:
    """One line of the table; of times and rates the medians."""
    metrics = result.metrics
    return (
        result.name,
        result.variant,
        _percent(metrics["top1"]),
        f"{_percent(metrics['top1_low'])} to {_percent(metrics['top1_high'])}",
        _percent(metrics["top5"]) if "top5" in metrics else "",
        _percent(metrics["ece"]),
        f"{result.multiply_adds:,}",
        f"{result.parameters:,}",
        _digits(result.rate),
        _digits(result.latency),
        str(result.batch_size),
        f"{result.runtime} {result.precision}",
    )


def as_json(results: Sequence[Result], data: str) -> dict[str, Any]:
    """All that was measured, each turn's figures too."""
    return {
        "data": data,
        "models": [
            {
                **asdict(result),
                "left_out": [{"file": file, "reason": reason} for file, reason in result.left_out],
                "median_images_per_second": result.rate,
                "median_latency_ms": result.latency,
            }
            for result in results
        ],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _digits(value: float) -> str:
    """Three digits, as many as a measurement of a second or two is worth."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
