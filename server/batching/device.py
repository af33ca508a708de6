"""The device that several models share: whose batch is computed next.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over measured seconds: of those that wait, the model is next that has
had the least time for its weight. One that has had nothing to do for a while begins where the others are, so that it is
next at once, and has no claim to the time that it has not used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Turn(Protocol):
    """The right to compute one batch. `end` may be called again, and where nothing has begun."""

    def begin(self) -> None:
        """Wait until it is this batch's turn."""

    def whole(self) -> bool:
        """Whether the batch may have the whole device, because nobody else computes or waits; to be asked in a turn."""

    def end(self) -> None:
        """The batch is computed, or nothing came of it."""


class _Alone:
    """The turns of a model that shares its device with none."""

    def begin(self) -> None:
        """At once."""

    def whole(self) -> bool:
        """Always."""
        return True

    def end(self) -> None:
        """Nobody waits for it."""


ALONE: Turn = _Alone()


class SharedDevice:
    """A device of so many units, of which each batch takes some while it is computed. For all threads."""

    def __init__(self, units: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody shares it yet.

        Args:
            units: what there is of it, such as CPU cores.
            clock: seconds that only rise, for the time that models have had and by which batches hang.
        """
        self.units, self.clock = units, clock
        self._changed = threading.Condition()
        self._free = units
        self._shares: list[DeviceShare] = []
        self._now = 0.0  # seconds for each unit of weight that those who are active have had, at the least

    def share(self, weight: float = 1.0, batches: int = 1) -> DeviceShare:
        """A model's share.

        Args:
            weight: that its time is in proportion to, while others wait.
            batches: of the model that the device computes at once where it has no other; each takes an equal part.
        """
        made = DeviceShare(self, weight, max(1, self.units // batches))
        with self._changed:
            self._shares.append(made)
        return made

    def leave(self, share: DeviceShare) -> None:
        """A model is gone, unless one of its batches hangs."""
        with self._changed:
            if share in self._shares and not share.active:
                self._shares.remove(share)

    def begin(self, turn: _SharedTurn, share: DeviceShare) -> float:
        """Wait until it is the turn of a share; returns when that was."""
        with self._changed:
            if not share.active:
                share.had = max(share.had, self._now)
            share.waiting += 1
            while not (self._free >= share.units and share is self._next()):
                self._changed.wait()
            share.waiting -= 1
            share.computing += 1
            self._free -= share.units
            # As long as the last one: else a second batch would be taken before the first is counted.
            share.had += share.last
            share.guessed.append(share.last)
            # Who comes now begins where the others were before the batches that are being computed.
            self._now = max(self._now, min(each.counted for each in self._shares if each.active))
            self._changed.notify_all()
            share.turns.append(turn)
            return self.clock()

    def whole(self, share: DeviceShare) -> int:
        """Give a share that computes one batch all that is free, where nobody else is there; how much that was."""
        with self._changed:
            others = any(each.active for each in self._shares if each is not share)
            if others or share.computing > 1 or share.waiting:
                return 0
            taken, self._free = self._free, 0
            return taken

    def give_up(self, share: DeviceShare, seconds: float) -> None:
        """Let others have what those batches of a share hold that have been computed for longer: they hang.

        They may go on to use it, and those after them hang as well, if the device itself is what hangs. But where a
        single model does, the others are computed beside it. It has no other turn before what hangs comes back: it
        would only keep the device for a batch that waits for that.
        """
        with self._changed:
            for turn in list(share.turns):
                if turn.begun is not None and self.clock() - turn.begun > seconds:
                    share.turns.remove(turn)
                    share.guessed.pop()  # not counted as more than that: else the model would wait for as long again
                    share.computing -= 1
                    share.hung += 1
                    self._free += share.units + turn.more
            self._changed.notify_all()

    def end(self, turn: _SharedTurn, share: DeviceShare, begun: float, more: int) -> None:
        """A batch has been computed that began at `begun`, with so many units more than usual."""
        with self._changed:
            if turn not in share.turns:  # given up before it came back after all
                share.hung -= 1
                self._changed.notify_all()
                return
            share.turns.remove(turn)
            seconds = (self.clock() - begun) * (share.units + more) / share.weight
            share.had += seconds - share.guessed.pop()
            share.last = seconds
            share.computing -= 1
            self._free += share.units + more
            self._changed.notify_all()

    def _next(self) -> DeviceShare | None:
        able = (each for each in self._shares if each.waiting and not each.hung)
        return min(able, key=lambda each: (each.had, each.computing), default=None)


class DeviceShare:
    """What one model has of a device. Its numbers are guarded by the device's lock."""

    def __init__(self, device: SharedDevice, weight: float, units: int) -> None:
        """Made by `SharedDevice.share`."""
        self.weight, self.units = weight, units
        self.had = 0.0  # seconds that it has had, of each unit and for its weight
        self.last = 0.0  # of them for the last batch
        self.guessed: list[float] = []  # of them for each batch that is being computed
        self.waiting = self.computing = 0  # batches
        self.hung = 0  # batches that were given up and have not come back
        self.turns: list[_SharedTurn] = []  # of those that are being computed
        self._device = device

    @property
    def active(self) -> bool:
        """Whether it computes or waits."""
        return bool(self.waiting or self.computing)

    @property
    def counted(self) -> float:
        """Seconds that it has had, without the batches that are being computed."""
        return self.had - sum(self.guessed)

    def turn(self) -> Turn:
        """For the next batch."""
        return _SharedTurn(self._device, self)

    def give_up(self, seconds: float) -> None:
        """Batches that have been computed for longer hang: they keep no others from the device any more."""
        self._device.give_up(self, seconds)

    def leave(self) -> None:
        """The model is gone."""
        self._device.leave(self)


class _SharedTurn:
    def __init__(self, device: SharedDevice, share: DeviceShare) -> None:
        self._device, self._share = device, share
        self.begun: float | None = None
        self.more = 0  # units than usual

    def begin(self) -> None:
        if self.begun is None:
            self.begun = self._device.begin(self, self._share)

    def whole(self) -> bool:
        self.more = self._device.whole(self._share)
        return self._share.units + self.more == self._device.units

    def end(self) -> None:
        if self.begun is not None:
            self._device.end(self, self._share, self.begun, self.more)
            self.begun, self.more = None, 0
