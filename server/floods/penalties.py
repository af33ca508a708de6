"""Penalty points: what a call costs its address, what an address may spend, and what happens to one that floods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glimpse.server.sockets.connections import Endpoint

CHEAP = 0.25  # points of a call that was answered for little, or was reset at once
# Points of a call that was refused for want of room, or because its connection is to end with the authority of its
# certificate: honest callers meet that, too, a whole fleet of them at once.
_NO_ROOM = 0.1
EXCUSED = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})  # that honest callers meet, too
_AT_ONCE = 0.02  # seconds; a call that is reset by then was never meant. Hedged calls and deadlines live longer.

REFILL = 30.0  # points a second that an address gets back
FORGOTTEN = 300.0  # seconds after which a penalty does not lengthen the next one
SHORTEST = 2.0  # seconds that an address may open no connections
_LONGEST = 60.0  # the same, at most
_LONGEST_IF_SHARED = 2.0  # the same, at most, where others behind the address are served


def points(code: str, *, received: int, gated: bool, seconds: float) -> float:
    """What a call costs that was no classification with an answer.

    Args:
        code: its status.
        received: bytes of its messages.
        gated: whether its method is one that classifies.
        seconds: from its beginning on.
    """
    if code in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}:
        return 0.0 if received else _NO_ROOM
    if code in {"CANCELLED", "DEADLINE_EXCEEDED"}:
        # Whole messages that come too late for a deadline of milliseconds are what an impatient caller sends.
        return CHEAP if not received or (code == "CANCELLED" and seconds < _AT_ONCE) else 0.0
    if not received or code in {"UNAUTHENTICATED", "UNIMPLEMENTED"}:
        return 1.0
    return CHEAP if code == "INVALID_ARGUMENT" or not gated else 0.0


@dataclass(slots=True)
class Account:
    """The penalty points of an address, and its blocks."""

    left: float  # points that it may still spend
    at: float  # when they were counted
    refill: float = REFILL  # points a second that it gets back
    recent: float = 0.0  # of late
    excused: float = 0.0  # the part of it that is excused
    blocks: int = 0  # recent ones, which make the next one longer
    blocked_at: float = -math.inf  # when, the last time
    blocked_until: float = -math.inf  # no new connections, and those that could not be closed are refused their calls
    passing: int = 0  # connections that came and went without a call, since the last evaluation
    closed: bool = False  # whether it has connections of its own; what comes through a trusted proxy has none
    kept: set[Endpoint] = field(default_factory=set)  # connections that may stay while it is blocked

    def most(self, allowance: int) -> float:
        """What the address may save up, of an `allowance`: less, the more often it was blocked recently."""
        return max(self.refill, allowance / (1 << self.blocks))

    def count(self, now: float, allowance: int, *, gained: float, spent: float, excused: float) -> None:
        """Count the points since the last time; `excused`: the part of what was `spent` that is."""
        most = self.most(allowance)
        gained += self.refill * (now - self.at)
        self.left = max(-most, min(most, self.left + gained) - spent)
        self.at = now
        self.recent += spent
        self.excused += excused

    def block(self, now: float, allowance: int, *, shared: bool) -> None:
        """Accept no new connections for a while, longer each time; `shared`: others behind the address are served."""
        if now - self.blocked_at > FORGOTTEN:
            self.blocks = 0
        if now >= self.blocked_until:  # else it is the same flood, over another connection
            seconds = min(_LONGEST_IF_SHARED if shared else _LONGEST, SHORTEST * 2**self.blocks)
            self.blocks = min(self.blocks + 1, 6)
            self.blocked_at, self.blocked_until = now, now + seconds
        self.left = self.most(allowance)
        self.recent = self.excused = 0.0  # which was paid for


@dataclass(frozen=True, slots=True)
class Penalty:
    """Connections of an address to close at once, and for how long to accept no new ones from it."""

    address: str
    reason: str  # one of `CLOSED_FOR` in server/metrics/metrics.py
    connections: Sequence[Endpoint]
    seconds: float
