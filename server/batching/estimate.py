"""How long the device will need, from the batches that it has computed."""

from __future__ import annotations

from collections import deque

_WINDOW = 16  # batches of one size


class ComputeEstimate:
    """The shortest of the latest times per batch size: one hiccup must not refuse work that would be in time."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._shortest: dict[int, float] = {}  # of these
        self._expected: dict[int, float] = {}  # by size, until a shortest one changes; it is asked for at every call

    def add(self, size: int, seconds: float) -> None:
        """A batch of `size` (padding included) took `seconds`."""
        times = self._seconds.setdefault(size, deque(maxlen=_WINDOW))
        times.append(seconds)
        shortest = min(times)
        if shortest != self._shortest.get(size):
            self._shortest[size] = shortest
            self._expected.clear()

    def seconds(self, size: int) -> float:
        """Expected seconds for one batch of `size`; 0 where nothing as small was measured."""
        expected = self._expected.get(size)
        if expected is None:
            measured = [shortest for known, shortest in self._shortest.items() if known <= size]
            expected = self._expected[size] = max(measured, default=0.0)
        return expected

    def seconds_to_compute(self, images: int, largest: int) -> float:
        """Expected seconds for `images` in batches of `largest`."""
        batches, rest = divmod(images, largest)
        return batches * self.seconds(largest) + (self.seconds(rest) if rest else 0.0)
