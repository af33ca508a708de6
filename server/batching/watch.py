"""What the batcher's workers have in hand, since when, and whether one of them will ever come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimpse.server.batching.waiting import Waiting
from glimpse.server.nouns import noun


@dataclass(slots=True)
class _Hand:
    batch: Sequence[Waiting]
    begun: float | None = None  # on the device since; None: waits for it


class Watch:
    """Knows what hangs. Plain data: no threads, no lock; the batcher's guards it."""

    def __init__(self, stuck_seconds: float, clock: Callable[[], float]) -> None:
        """A batch that is on the device for longer than `stuck_seconds` hangs."""
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._hands: dict[str, _Hand] = {}
        self._died: str | None = None

    def took(self, worker: str, batch: Sequence[Waiting]) -> None:
        """A worker has a batch in hand."""
        self._hands[worker] = _Hand(batch)

    def began(self, worker: str) -> None:
        """Its batch is on the device."""
        self._hands[worker].begun = self._clock()

    def ended(self, worker: str) -> None:
        """Its batch has come back, well or not."""
        self._hands[worker].begun = None

    def gave(self, worker: str) -> None:
        """Its batch is answered."""
        self._hands.pop(worker, None)

    def died(self, worker: str, error: BaseException) -> list[Waiting]:
        """A worker has ended that should not; returns what it had in hand."""
        self._died = f"The thread {worker} of the batcher has died of {type(error).__name__}."
        hand = self._hands.pop(worker, None)
        return [] if hand is None else list(hand.batch)

    def trouble(self) -> str | None:
        """What hangs, for people; None: nothing does."""
        if self._died is not None:
            return self._died
        hung = [(seconds, hand) for hand in self._hands.values() if (seconds := self._hangs_for(hand)) is not None]
        if not hung:
            return None
        seconds, hand = max(hung, key=lambda each: each[0])
        return f"A batch of {len(hand.batch)} {noun(len(hand.batch), 'image')} has been computing for {seconds:.0f} s."

    def lost(self) -> list[Waiting]:
        """What is in hands that hang, or that wait for the device while another hangs."""
        return [
            slot
            for hand in self._hands.values()
            if hand.begun is None or self._hangs_for(hand) is not None
            for slot in hand.batch
        ]

    def _hangs_for(self, hand: _Hand) -> float | None:
        seconds = 0.0 if hand.begun is None else self._clock() - hand.begun
        return seconds if seconds > self._stuck_seconds else None
