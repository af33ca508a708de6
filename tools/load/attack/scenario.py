"""What a scenario is: a promise, and the attacks that try to break it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

V4, V6 = "127.0.0.1", "::1"
MB = 1_000_000
_SCALED = ("connections", "at_once", "names", "count", "rate")


@dataclass(frozen=True, slots=True)
class Attack:
    """One variation: a job of the attacker and what it is told."""

    name: str
    job: str
    arguments: Mapping[str, Any]
    sources: int = 1  # addresses to come from
    streamed: bool = False  # the neighbour sends each picture over a stream of its own
    beside: bool = False  # the neighbour has the attacker's own address, and is known by its token alone

    def scaled(self, scale: float) -> dict[str, Any]:
        """The arguments with all numbers made smaller."""
        return {
            key: max(1, round(value * scale)) if key in _SCALED and value else value
            for key, value in self.arguments.items()
        }


@dataclass(frozen=True, slots=True)
class Scenario:
    """A promise, and four or more attempts to break it."""

    name: str
    promise: str
    attacks: Sequence[Attack]
    access: Literal["open", "tokens", "tls"] = "open"  # tokens: the neighbour has one, the attacker has none
    settings: Mapping[str, str] = field(default_factory=dict)  # of the server, by name in upper case
    grown: float = 150.0  # MB by which resident memory may grow at most
    kept: float = 150.0  # MB of that which may be left 10 s later
    logged: int | None = None  # bytes that the server may write to its log and audit log meanwhile
    name_of_neighbour: str = ""  # `glimpse-client` of the neighbour
    fresh: bool = False  # the neighbour makes a connection for each call
