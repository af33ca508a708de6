"""What a phase of a load is: how requests come, what is in them, and what is expected of the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from glimpse.client.load.thresholds import Threshold
from glimpse.client.nouns import noun


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One phase. With a rate it is an open loop; without one, each caller waits for its answer."""

    name: str = "load"
    callers: int = 1
    rate: float = 0.0  # requests a second; 0: a closed loop
    steady: bool = False  # at equal distances; otherwise as independent callers come
    duration: float = math.inf  # seconds, without the warm-up; for ever where `requests` ends it
    requests: int = 0  # end after so many; 0: the duration does
    warm_up: float = 0.0  # seconds before it whose requests are sent and not counted
    images_per_call: int = 1
    bad: float = 0.0  # share of the images that are broken on purpose, 0..1
    stream: bool = False  # over ClassifyStream
    window: int = 16  # requests of one stream that wait for their answer
    timeout: float = 60.0  # seconds for an answer
    thresholds: tuple[Threshold, ...] = ()

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: a number is out of range, or nothing would end the phase.
        """
        for name in ("callers", "images_per_call", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more. Received: {getattr(self, name)}.")
        for name in ("rate", "requests", "warm_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more. Received: {getattr(self, name)}.")
        for name in ("duration", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0. Received: {getattr(self, name)}.")
        if not 0 <= self.bad <= 1:
            raise ValueError(f"bad is a share, 0 to 1. Received: {self.bad}.")
        if not self.requests and math.isinf(self.duration):
            raise ValueError("A phase ends after a duration or after a number of requests; give one of them.")

    def said(self) -> str:
        """For people."""
        how = f"{self.rate:g} requests/s" if self.rate else f"{self.callers:,} {noun(self.callers, 'caller')}"
        if self.rate:
            how += ", at equal intervals" if self.steady else ", at random intervals"
        parts = [how]
        if self.images_per_call > 1:
            parts.append(f"{self.images_per_call} images a request")
        if self.stream:
            parts.append(f"streams with a window of {self.window}")
        if self.bad:
            parts.append(f"{self.bad:.0%} broken on purpose")
        requests = f"{self.requests:,} {noun(self.requests, 'request')}"
        parts.append(requests if self.requests else f"{self.duration:g} s")
        return ", ".join(parts)
