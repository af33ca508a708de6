"""The attacker: a process of its own (`python -m tools.load.attack.attacker`) that does what it is told for a while.

It uses one core at most, and tells how much of it. What it sends is put together before the clock starts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tools.bench.worker import serve
from tools.load.attack.clock import Clock, Result
from tools.load.attack.closed_loop import ClosedLoop, Plan
from tools.load.attack.crowds import Flood, Hoard, Storm
from tools.load.attack.messages import body

_SLICE = 0.01  # seconds


def prepare(sent: str, *, packed: bool) -> None:
    """Put a message together before anybody waits for it."""
    body(sent, packed=packed)


def burn(seconds: float, share: float) -> Result:
    """Nothing but use a core for `share` of the time: what an attack would cost others if it were only that."""
    clock = Clock(seconds)
    while not clock.over:
        now = time.monotonic()
        while time.monotonic() < now + _SLICE * share:
            pass
        time.sleep(max(0.0, now + _SLICE - time.monotonic()))
    return clock.result(Counter())


def _jobs() -> dict[str, Callable[..., Any]]:
    return {
        "prepare": prepare,
        "burn": burn,
        "calls": lambda **told: ClosedLoop(Plan(**told)).run(),
        "flood": lambda **told: Flood(**told).run(),
        "connect": lambda **told: Storm(**told).run(),
        "hoard": lambda **told: Hoard(**told).run(),
    }


if __name__ == "__main__":
    serve(_jobs)
