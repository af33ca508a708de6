"""What callers met while replicas were ended under them, and in which moment of whose life."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

_SLOWEST = 10  # calls that are kept


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that its caller saw fail."""

    begun: float  # seconds from the start of the run
    ended: float
    caller: int
    call: str  # classify or classify_many
    code: str
    reason: str
    message: str
    images: int = 1  # that stayed without an answer


@dataclass(frozen=True, slots=True, order=True)
class Slow:
    """A single call that was answered, but late."""

    seconds: float
    begun: float  # from the start of the run
    caller: int


@dataclass(slots=True)
class Ending:
    """One signal, and what the replica did then; times in seconds from the start of the run."""

    replica: int
    signal: str
    sent: float
    in_flight: int  # images in it, just before
    draining: float | None = None
    exited: float | None = None
    code: int | None = None
    serving: float | None = None  # its successor
    faults: list[str] = field(default_factory=list)

    def told(self, at: float) -> str:
        """This moment as seen from the signal, for people."""
        since = f"{at - self.sent:+.3f} s from {self.signal} to replica {self.replica}"
        if self.serving is not None and at >= self.serving:
            return f"{since}, {at - self.serving:.3f} s after its successor was SERVING"
        if self.exited is not None and at >= self.exited:
            return f"{since}, {at - self.exited:.3f} s after its exit"
        if self.draining is not None and at >= self.draining:
            return f"{since}, {at - self.draining:.3f} s into its drain"
        return since


def moment(at: float, endings: Sequence[Ending]) -> str:
    """The last signal before a time, and what the replica was doing by then."""
    before = [ending for ending in endings if ending.sent <= at]
    return before[-1].told(at) if before else "before the first signal"


class Ledger:
    """Answers and failures. Safe to share between threads."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = Lock()
        self.answered = 0
        self.streamed = 0  # of them, over a stream
        self.wrong: list[str] = []
        self.failures: list[Failure] = []
        self.latencies: list[float] = []  # of single calls, seconds
        self.slowest: list[Slow] = []  # a heap

    @property
    def requests(self) -> int:
        """That have ended, one way or the other."""
        with self._lock:
            return self.answered + len(self.wrong) + sum(failure.images for failure in self.failures)

    def answer(self, got: str, expected: str, call: Slow | None = None) -> None:
        """A label has come; None for an image of a stream."""
        with self._lock:
            if got == expected:
                self.answered += 1
            else:
                self.wrong.append(f"expected {expected}, received {got}")
            if call is None:
                self.streamed += 1
            else:
                self.latencies.append(call.seconds)
                (heapq.heappush if len(self.slowest) < _SLOWEST else heapq.heappushpop)(self.slowest, call)

    def fail(self, failure: Failure) -> None:
        """A caller saw a request fail."""
        with self._lock:
            self.failures.append(failure)

    def as_data(self, endings: Sequence[Ending]) -> dict[str, Any]:
        """For JSON: each failure with the moment at which it began and ended."""
        return {
            "answered": self.answered,
            "streamed": self.streamed,
            "wrong": self.wrong,
            "failures": [
                {
                    **asdict(failure),
                    "begun_at": moment(failure.begun, endings),
                    "ended_at": moment(failure.ended, endings),
                }
                for failure in self.failures
            ],
            "slowest": [
                {
                    **asdict(call),
                    "begun_at": moment(call.begun, endings),
                    "ended_at": moment(call.begun + call.seconds, endings),
                }
                for call in sorted(self.slowest, reverse=True)
            ],
            "endings": [asdict(ending) for ending in endings],
        }
