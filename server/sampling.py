"""Limits the rate of similar log lines, so that strangers cannot fill the disk with refusals.

For each caller and kind of refusal the first few lines are written at once, then one a second; for all together there
is a limit a second, too. A line says how many like it were left out since the last one; a count that no later line
tells is written when the flood has ended. The memory for callers is bounded as well: those beyond the limit are counted
together.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

_FIRST = 5  # lines of a caller and kind at once, and then one a second
_FIRST_OF_ALL = 50  # lines of all callers and kinds at once
_OF_ALL = 10.0  # lines a second of all
_MOST = 1024  # callers and kinds that are known
_QUIET = 1.0  # seconds without one, after which a flood has ended
_LOOK = 2.0  # seconds between two looks for floods that have ended, while there are any
_SUMS = 5  # that one look tells by themselves


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Lines that were left out, when no more like them come."""

    who: str  # "": several callers
    code: str  # "": several
    reason: str
    lines: int


@dataclass(slots=True)
class _Kind:
    """Lines of one caller and kind."""

    allowed: float  # lines that may be written now
    at: float  # when that was so
    left_out: int = 0
    last: float = 0.0  # when one was left out


class Sampled:
    """Decides line by line. Not safe from several threads."""

    def __init__(
        self, tell: Callable[[LeftOut], None], *, clock: Callable[[], float] = time.monotonic, most: int = _MOST
    ) -> None:
        """Begin.

        Args:
            tell: writes what was left out and no line has said, within some seconds. Called in the running event loop;
                where there is none, nothing is told but with the next line or by `close`.
            clock: in seconds.
            most: callers and kinds that are known at a time.
        """
        self._tell = tell
        self._clock = clock
        self._most = most
        self._kinds: OrderedDict[tuple[str, str, str], _Kind] = OrderedDict()  # the one seen last at the end
        self._others = 0  # lines left out of callers and kinds that are no longer known
        self._allowed, self._at = float(_FIRST_OF_ALL), clock()
        self._look: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # in which that is

    def left_out(self, who: str, code: str, reason: str) -> int | None:
        """How many lines like this one were left out since the last one; None: leave this one out, too.

        Args:
            who: the caller, without what they can change at will, such as a port.
            code: how the call ended.
            reason: why.
        """
        now = self._clock()
        key = (who, code, reason)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self._most:
                self._others += self._kinds.popitem(last=False)[1].left_out
            kind = self._kinds[key] = _Kind(_FIRST, now)
        else:
            self._kinds.move_to_end(key)
            kind.allowed = min(_FIRST, kind.allowed + now - kind.at)
            kind.at = now
        if kind.allowed >= 1 and self._take(now):
            kind.allowed -= 1
            lines, kind.left_out = kind.left_out, 0
            return lines
        kind.left_out += 1
        kind.last = now
        self._look_later()
        return None

    def close(self) -> None:
        """Tell at once what no line has said yet."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._sum_up(list(self._kinds.values()))

    def _take(self, now: float) -> bool:
        """Whether one more line of all may be written."""
        self._allowed = min(_FIRST_OF_ALL, self._allowed + (now - self._at) * _OF_ALL)
        self._at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def _look_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._look is None or self._loop is not loop:
            # In a context of its own: what is told is not of the call that happened to come first.
            self._look, self._loop = loop.call_later(_LOOK, self._look_now, context=Context()), loop

    def _look_now(self) -> None:
        self._look = None
        now = self._clock()
        self._sum_up([kind for kind in self._kinds.values() if now - kind.last >= _QUIET])
        if any(kind.left_out for kind in self._kinds.values()):
            self._look_later()

    def _sum_up(self, over: list[_Kind]) -> None:
        """Tell the largest of what is over by itself, and the rest in one line."""
        keys = {id(kind): key for key, kind in self._kinds.items()}
        found = sorted((kind for kind in over if kind.left_out), key=lambda kind: -kind.left_out)
        for kind in found[:_SUMS]:
            self._tell(LeftOut(*keys[id(kind)], kind.left_out))
            kind.left_out = 0
        for kind in found[_SUMS:]:
            self._others += kind.left_out
            kind.left_out = 0
        if self._others:
            self._tell(LeftOut("", "", "", self._others))
            self._others = 0
