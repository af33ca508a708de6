"""What a load test has to reach, as people write it: ``p99 < 200 ms``, ``errors < 0.1%``, ``images >= 50/s``."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

_LATENCIES = ("p50", "p90", "p95", "p99", "p99.9", "mean", "max")
_RATES = {"requests": "requests_per_second", "images": "images_per_second"}
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TEXT = re.compile(r"\s*([a-z][a-z0-9.]*)\s*(<=|>=|<|>)\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|%|/s)?\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition on the figures of a phase."""

    text: str  # as it was written
    figure: str  # p50 ... max, errors, requests or images
    comparison: str
    limit: float  # seconds, a share, or a rate a second

    def check(self, figures: dict[str, Any]) -> dict[str, Any]:
        """What became of it: its text, the value, whether it was met. Without any answer there is no latency to meet.

        Args:
            figures: of one phase, as `client.load.figures` has them.
        """
        value: float | None
        if self.figure == "errors":
            value = figures["error_share"]
        elif self.figure in _RATES:
            value = figures[_RATES[self.figure]]
        else:
            value = figures["latency"].get(self.figure)
        met = value is not None and _COMPARE[self.comparison](value, self.limit)
        return {"text": self.text, "value": value, "met": met}


def parse(text: str) -> Threshold:
    """Read one.

    Raises:
        ValueError: it is no such condition, or its unit is not that of its figure.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise ValueError(f"A threshold is written like 'p99 < 200 ms' or 'errors < 0.1%'. Received: {text!r}.")
    figure, comparison, number, unit = found.groups()
    limit = float(number)
    if figure in _LATENCIES:
        if unit not in _UNITS:
            raise ValueError(f"{figure} is compared with a time: ms, s or us. Received: {text!r}.")
        limit *= _UNITS[unit]
    elif figure == "errors":
        if unit != "%":
            raise ValueError(f"errors are compared with a share in %. Received: {text!r}.")
        limit /= 100
    elif figure in _RATES:
        if unit not in {"/s", None}:
            raise ValueError(f"{figure} are compared with a rate: /s. Received: {text!r}.")
    else:
        known = ", ".join((*_LATENCIES, "errors", *_RATES))
        raise ValueError(f"There is no figure {figure!r}; there are: {known}. Received: {text!r}.")
    return Threshold(text.strip(), figure, comparison, limit)
