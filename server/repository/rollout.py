"""New versions that answer a part of a model's requests (a canary), or copies of them (a shadow).

The terms of both, what is counted of them, and the decision to roll a canary back. Nothing here does anything: requests
are distributed in `traffic.py`, copies computed in `copies.py`, terms kept in `rollout_file.py`.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import structlog

from glimpse.server.metrics.rollouts import RolloutMetrics
from glimpse.server.nouns import noun

_log = structlog.get_logger(__name__)

MIN_REQUESTS, WINDOW_SECONDS = 50, 300.0
SHADOW_AGREEMENT = 0.9  # below which a shadow disagrees, unless it is stated
_SLOTS = 10  # that a window is divided into: what is older than it leaves it in such steps


class Kind(StrEnum):
    """What a new version gets of the requests that name no version."""

    CANARY = "canary"  # a part of them
    SHADOW = "shadow"  # copies, whose answers nobody gets


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new version gets, and when a canary is rolled back."""

    version: str
    share: float  # of the requests that name no version, from 0 to 1; 0: it is over
    # Both are for what lies within the window, where that is at least `min_requests`.
    max_error_rate: float | None = None  # of the requests that the canary answers; None: it may be any
    min_agreement: float | None = None  # share of the compared images; None: a canary's answers are not compared
    min_requests: int = MIN_REQUESTS  # or compared images
    window_seconds: float = WINDOW_SECONDS
    rolled_back: str = ""  # why; for people

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: which term is wrong, and what it may be.
        """
        for name in ("share", "max_error_rate", "min_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, or from 0% to 100%. Received: {value}")
        if self.min_requests < 1:
            raise ValueError(f"min_requests must be at least 1. Received: {self.min_requests}")
        if not 1 <= self.window_seconds <= 86_400:
            raise ValueError(f"window_seconds must be from 1 to 86400. Received: {self.window_seconds}")


@dataclass(slots=True)
class Counts:
    """What one of the two versions has done. Of a canary these are requests, of a shadow images."""

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0  # of those that were answered, together

    @property
    def mean_seconds(self) -> float:
        """Of one answer; 0 where there is none."""
        return self.seconds / self.answered if self.answered else 0.0


class Window:
    """How many of the latest events were bad."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        """Look back so many seconds."""
        self._slot_seconds, self._clock = seconds / _SLOTS, clock
        self._slots: deque[list[int]] = deque()  # [number of the slot, events, bad ones]

    def add(self, events: int, bad: int) -> None:
        """So many more, and how many of them were bad."""
        number = self._forget()
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0, 0])
        self._slots[-1][1] += events
        self._slots[-1][2] += bad

    def sums(self) -> tuple[int, int]:
        """Events, and bad ones of them."""
        self._forget()
        return sum(slot[1] for slot in self._slots), sum(slot[2] for slot in self._slots)

    def _forget(self) -> int:
        number = int(self._clock() / self._slot_seconds)
        while self._slots and self._slots[0][0] <= number - _SLOTS:
            self._slots.popleft()
        return number


@dataclass(slots=True)
class Comparison:
    """Of the answers that both versions have given to the same images."""

    images: int = 0
    agreed: int = 0  # both name the same first class
    difference: float = 0.0  # of the probabilities of the class that was answered first: absolute, all together
    dropped: int = 0  # copied images that were not compared, for want of time or memory

    @property
    def agreement(self) -> float:
        """Share that agreed, from 0 to 1; 0 where there is nothing."""
        return self.agreed / self.images if self.images else 0.0

    @property
    def mean_difference(self) -> float:
        """Of one image; 0 where there is none."""
        return self.difference / self.images if self.images else 0.0


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """A canary or a shadow as it is now, in plain values that other processes can be told."""

    name: str
    kind: Kind
    terms: Terms
    reference: str
    new: Counts = field(default_factory=Counts)
    usual: Counts = field(default_factory=Counts)
    comparison: Comparison = field(default_factory=Comparison)

    def said(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """What `said` was called of."""
        return cls(
            said["name"],
            Kind(said["kind"]),
            Terms(**said["terms"]),
            said["reference"],
            Counts(**said["new"]),
            Counts(**said["usual"]),
            Comparison(**said["comparison"]),
        )


class Rollout:
    """A canary or a shadow of one model. Lives on the event loop."""

    def __init__(
        self, name: str, kind: Kind, terms: Terms, metrics: RolloutMetrics, clock: Callable[[], float]
    ) -> None:
        """Made by `Rollouts.put`."""
        self.name, self.kind, self.terms = name, kind, terms
        self.reference = ""  # the usual version, which it is compared with; "": not known yet
        self.new, self.usual = Counts(), Counts()
        self.comparison = Comparison()
        self._metrics = metrics
        self._errors, self._disagreements = (Window(terms.window_seconds, clock) for _ in range(2))
        metrics.began(self._labels, terms.share, terms.min_agreement)

    @property
    def running(self) -> bool:
        """Whether the new version gets anything."""
        return self.terms.share > 0

    def takes(self, key: str) -> bool:
        """Whether the request with this key belongs to the share: always the same, in each process and server.

        Whoever belongs to a share belongs to every larger one of the same version.
        """
        digest = hashlib.blake2b(f"{self.name}\0{self.terms.version}\0{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.terms.share * 2**64

    def answered(self, seconds: float, *, new: bool, ok: bool = True) -> None:
        """A request of a canary, or an image of a shadow, was answered, or failed: by the new version or the usual."""
        counts = self.new if new else self.usual
        if ok:
            counts.answered += 1
            counts.seconds += seconds
        else:
            counts.failed += 1
        version = self.terms.version if new else self.reference
        self._metrics.answered((self.name, version, self.kind.value), seconds, ok=ok)
        if new:
            self._errors.add(1, bad=not ok)

    def compare(self, difference: float, *, agrees: bool) -> None:
        """An image has been classified by both versions."""
        self.comparison.images += 1
        self.comparison.agreed += agrees
        self.comparison.difference += difference
        self._metrics.compare(self._labels, difference, agrees=agrees)
        self._disagreements.add(1, bad=not agrees)

    def drop(self, images: int = 1) -> None:
        """So many copied images are not compared."""
        self.comparison.dropped += images
        self._metrics.dropped.labels(*self._labels).inc(images)

    def report(self) -> RolloutReport:
        """How it is now; what is counted later does not change it."""
        counts = replace(self.new), replace(self.usual), replace(self.comparison)
        return RolloutReport(self.name, self.kind, self.terms, self.reference, *counts)

    def take(self) -> RolloutReport:
        """What has been counted since this was called last, for another process that counts for all."""
        taken = self.report()
        self.new, self.usual, self.comparison = Counts(), Counts(), Comparison()
        return taken

    def add(self, taken: RolloutReport) -> None:
        """Count what another process has counted; it has it in its own metrics."""
        for counts, more in ((self.new, taken.new), (self.usual, taken.usual)):
            counts.answered += more.answered
            counts.failed += more.failed
            counts.seconds += more.seconds
        found, more_found = self.comparison, taken.comparison
        found.images += more_found.images
        found.agreed += more_found.agreed
        found.difference += more_found.difference
        found.dropped += more_found.dropped
        if events := taken.new.answered + taken.new.failed:
            self._errors.add(events, taken.new.failed)
        if more_found.images:
            self._disagreements.add(more_found.images, more_found.images - more_found.agreed)

    def verdict(self) -> tuple[str, str] | None:
        """Why a canary is to be rolled back: the cause for programs and for people; None: it is not."""
        terms = self.terms
        if self.kind is not Kind.CANARY or not self.running:
            return None
        total, bad = self._errors.sums()
        most = terms.max_error_rate
        if most is not None and total >= terms.min_requests and bad > most * total:
            return "errors", f"{bad} of its last {total} {noun(total, 'request')} failed; at most {most:.2%} may."
        total, bad = self._disagreements.sums()
        least = terms.min_agreement
        if least is not None and total >= terms.min_requests and total - bad < least * total:
            return "disagreement", (
                f"It names the first class of version {self.reference} for {total - bad} of the last {total} "
                f"{noun(total, 'image')}; "
                f"at least {least:.2%} are to agree."
            )
        return None

    def roll_back(self, cause: str, why: str) -> None:
        """Give the new version nothing from now on."""
        self.terms = replace(self.terms, share=0.0, rolled_back=why)
        self._metrics.began(self._labels, 0.0, self.terms.min_agreement)
        self._metrics.rollbacks.labels(self.name, self.terms.version, cause).inc()

    def ended(self) -> None:
        """It gets nothing any more, and nobody is to be told of it."""
        self.terms = replace(self.terms, share=0.0)
        self._metrics.ended(self._labels)

    @property
    def _labels(self) -> tuple[str, str, str]:
        return self.name, self.terms.version, self.kind.value


@dataclass(slots=True)
class Rollouts:
    """All canaries and shadows of a process: at most one of each kind for a model. Lives on the event loop."""

    metrics: RolloutMetrics
    clock: Callable[[], float] = time.monotonic
    decides: bool = True  # about roll-backs; else another process does, which is told what is counted here
    rolled_back: Callable[[str], object] = lambda _: None  # told the name of a model whose canary was rolled back
    changed: Callable[[], object] = lambda: None  # called when the terms of any have changed
    _all: dict[tuple[str, Kind], Rollout] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Rollout]:
        """All, by name of the model; also those that were rolled back."""
        return iter([self._all[key] for key in sorted(self._all)])

    def of(self, name: str, kind: Kind) -> Rollout | None:
        """The canary or the shadow of a model; None: there is none."""
        return self._all.get((name, kind))

    def any(self, name: str) -> bool:
        """Whether a model has one that gets anything."""
        return bool(self._all) and bool(self.versions(name))

    def versions(self, name: str) -> set[str]:
        """The versions of a model that get a share, and so have to be loaded."""
        return {each.terms.version for each in self._all.values() if each.name == name and each.running}

    def put(self, name: str, kind: Kind, terms: Terms, reference: str) -> None:
        """Begin one, or change its terms. What is counted goes on where the two versions stay the same.

        `reference`: the usual version; empty: it is not known yet.
        """
        before = self._all.get((name, kind))
        if before is not None and before.terms == terms and before.reference == reference:
            return
        made = Rollout(name, kind, terms, self.metrics, self.clock)
        made.reference = reference
        if before is not None:
            if before.terms.version != terms.version:
                before.ended()
            elif before.reference == reference and before.running:
                made.new, made.usual, made.comparison = before.new, before.usual, before.comparison
        self._all[name, kind] = made
        self.changed()

    def follow(self, told: Iterable[RolloutReport]) -> None:
        """Have those that another process tells of, and no others."""
        ours = {(each.name, each.kind): each for each in told}
        for name, kind in list(self._all):
            if (name, kind) not in ours:
                self.remove(name, kind)
        for each in ours.values():
            self.put(each.name, each.kind, each.terms, each.reference)

    def take(self) -> list[RolloutReport]:
        """What has been counted since this was called last."""
        empty = Counts(), Counts(), Comparison()
        taken = [each.take() for each in self]
        return [each for each in taken if (each.new, each.usual, each.comparison) != empty]

    def add(self, taken: RolloutReport) -> None:
        """Count what another process has counted, unless it is about another version."""
        rollout = self.of(taken.name, taken.kind)
        if rollout is not None and (rollout.terms.version, rollout.reference) == (taken.terms.version, taken.reference):
            rollout.add(taken)
            self.judge(rollout)

    def remove(self, name: str, kind: Kind) -> None:
        """End one, if there is one."""
        before = self._all.pop((name, kind), None)
        if before is not None:
            before.ended()
            self.changed()

    def keep(self, versions: Collection[tuple[str, str]]) -> None:
        """Forget what was counted of versions that are gone: all but these, each (model, version)."""
        named = {(each.name, version) for each in self for version in (each.terms.version, each.reference)}
        self.metrics.keep(named.union(versions))

    def judge(self, rollout: Rollout) -> None:
        """Roll a canary back if its terms say so; to be asked after each thing that is counted of it.

        What has begun under other terms may end under these, and nothing is decided by the terms before.
        """
        current = self.of(rollout.name, rollout.kind) is rollout
        found = rollout.verdict() if self.decides and current else None
        if found is not None:
            self.roll_back(rollout, *found)

    def roll_back(self, rollout: Rollout, cause: str, why: str) -> None:
        """Have the usual version answer all requests again, and say why."""
        rollout.roll_back(cause, why)
        _log.warning("canary rolled back", model=rollout.name, version=rollout.terms.version, cause=cause, detail=why)
        self.rolled_back(rollout.name)
        self.changed()
