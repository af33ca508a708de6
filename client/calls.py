"""Lone calls that a server has no room for: repeated when it says, and no faster than its rate allows.

gRPC repeats by itself what is UNAVAILABLE, for 1.5 seconds. Where a server has answered the client before, such calls
are repeated here for longer: it may be restarting, or be the only one and not serving for the moment. What is
RESOURCE_EXHAUSTED is repeated here, where the hint of one call can hold back the others of the same client: else each
of them would be sent, refused and sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from threading import Condition
from typing import TypeVar

import grpc

from glimpse.client.errors import Code, DeadlineExceededError, GlimpseError, OverloadedError
from glimpse.client.rate_control import RateControl
from glimpse.client.reachability import RETURN_SECONDS, Reachability
from glimpse.client.status import from_rpc_error, pushback

T = TypeVar("T")

RATE_LIMITED = "RATE_LIMITED"
_ATTEMPTS = 5  # as gRPC's own, of which it allows no more
_FIRST_SECONDS = 0.1  # of waiting, where the server does not say how long
_LONGEST_SECONDS = 1.0


class _RateGate:
    """Which calls may go, for both clients. Nothing here waits or locks."""

    def __init__(self) -> None:
        self._rate = RateControl()
        self._out: set[int] = set()  # the numbers of the calls on the way
        self._returning = 0  # refused calls that wait until they may come back
        self._numbers = 0

    def delay(self, now: float) -> float | None:
        """Seconds until a call that comes now may go; None: when another one has ended."""
        pace = self._rate
        if not pace.limited:
            return 0.0
        if self._returning or not pace.room(len(self._out)):
            return None
        return max(0.0, pace.next - now)

    def went(self, now: float) -> int:
        """A call goes out; returns its number."""
        self._numbers += 1
        self._out.add(self._numbers)
        self._rate.sent(now)
        return self._numbers

    def answered(self, number: int) -> None:
        """It was answered, or ended for another reason than the rate."""
        self._out.remove(number)
        self._rate.answered()

    def refused(self, number: int, now: float, retry_after: float) -> None:
        """It was refused for coming too fast."""
        alone = len(self._out) == 1
        self._out.remove(number)
        self._rate.refused(now, retry_after, alone=alone)

    def waits(self) -> None:
        """A refused call begins to wait."""
        self._returning += 1

    def returns(self) -> None:
        """It has waited, or was given up."""
        self._returning -= 1


class _Call:
    """One call's attempts."""

    def __init__(self, target: str, timeout: float, reachability: Reachability) -> None:
        self.end = time.monotonic() + timeout
        self.target = target
        self._reachability = reachability
        self._attempts = 0
        self._give_up: float | None = None  # time.monotonic, from which on no server is waited for

    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.end - time.monotonic())

    def wait(self, error: grpc.RpcError, failed: GlimpseError) -> float | None:
        """Seconds after which to make another attempt; None: there is to be no other."""
        self._attempts += 1
        told = pushback(error)
        if failed.reason and failed.code is not Code.UNAVAILABLE:
            self._reachability.answered()
        if not self._worthwhile(failed) or (told or 0.0) < 0.0:
            return None
        seconds = failed.retry_after if told is None else told
        if seconds is None:
            seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** (self._attempts - 1)) * random.uniform(0.8, 1.2)
        return seconds if seconds < self.left() else None

    def _worthwhile(self, failed: GlimpseError) -> bool:
        """Whether another attempt may do better."""
        if failed.code is not Code.UNAVAILABLE:
            return isinstance(failed, OverloadedError) and self._attempts < _ATTEMPTS
        now = time.monotonic()
        if self._give_up is None:
            self._give_up = now + RETURN_SECONDS
        return now < min(self._give_up, self._reachability.expected_until(now))

    def too_late(self) -> DeadlineExceededError:
        """The error of a call that could not even be sent in time."""
        return DeadlineExceededError(
            Code.DEADLINE_EXCEEDED,
            "",
            f"No answer from {self.target} within the timeout: other calls of this client were refused for coming too "
            "fast, and this one waited for its turn. Send fewer at once, or allow more time.",
        )


class Calls:
    """The lone calls of a client; for all threads."""

    def __init__(self, reachability: Reachability) -> None:
        self._gate = _RateGate()
        self._reachability = reachability
        self._changed = Condition()

    def run(self, call: Callable[[float], T], target: str, timeout: float) -> T:
        """What a call answers.

        Args:
            call: makes one attempt that may take so many seconds.
            target: for messages.
            timeout: seconds, for all attempts together.

        Raises:
            GlimpseError: it got no answer.
        """
        attempts = _Call(target, timeout, self._reachability)
        number = self._enter(attempts)
        while True:
            try:
                answer = call(attempts.left())
            except grpc.RpcError as error:
                seconds = self._failed(number, attempts, error)
            except BaseException:
                self._answered(number)
                raise
            else:
                self._reachability.answered()
                self._answered(number)
                return answer
            try:
                time.sleep(seconds)
            finally:
                with self._changed:
                    self._gate.returns()
                    self._changed.notify_all()
            with self._changed:
                number = self._gate.went(time.monotonic())

    def _enter(self, attempts: _Call) -> int:
        with self._changed:
            while (delay := self._gate.delay(time.monotonic())) != 0.0:
                left = attempts.left()
                if not left:
                    raise attempts.too_late()
                self._changed.wait(left if delay is None else min(delay, left))
            return self._gate.went(time.monotonic())

    def _answered(self, number: int) -> None:
        with self._changed:
            self._gate.answered(number)
            self._changed.notify_all()

    def _failed(self, number: int, attempts: _Call, error: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            GlimpseError: there is to be no other.
        """
        with self._changed:
            self._changed.notify_all()
            return _failed(self._gate, number, attempts, error)


class AsyncCalls:
    """The lone calls of a client for asyncio; on one event loop."""

    def __init__(self, reachability: Reachability) -> None:
        self._gate = _RateGate()
        self._reachability = reachability
        self._changed = asyncio.Event()

    async def run(self, call: Callable[[float], Awaitable[T]], target: str, timeout: float) -> T:  # noqa: ASYNC109 - the call's own
        """What a call answers; as `Calls.run`."""
        attempts = _Call(target, timeout, self._reachability)
        number = await self._enter(attempts)
        while True:
            try:
                answer = await call(attempts.left())
            except grpc.RpcError as error:
                self._wake()
                seconds = _failed(self._gate, number, attempts, error)
            except BaseException:
                self._gate.answered(number)
                self._wake()
                raise
            else:
                self._reachability.answered()
                self._gate.answered(number)
                self._wake()
                return answer
            try:
                await asyncio.sleep(seconds)
            finally:
                self._gate.returns()
                self._wake()
            number = self._gate.went(time.monotonic())

    async def _enter(self, attempts: _Call) -> int:
        while (delay := self._gate.delay(time.monotonic())) != 0.0:
            left = attempts.left()
            if not left:
                raise attempts.too_late()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left if delay is None else min(delay, left))
        return self._gate.went(time.monotonic())

    def _wake(self) -> None:
        """Let those who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()


def _failed(turns: _RateGate, number: int, attempts: _Call, error: grpc.RpcError) -> float:
    """Seconds to wait before the next attempt; the call counts as one that returns until then.

    Raises:
        GlimpseError: there is to be no other.
    """
    failed = from_rpc_error(error, attempts.target)
    seconds = attempts.wait(error, failed)
    if failed.reason == RATE_LIMITED:
        turns.refused(number, time.monotonic(), seconds or failed.retry_after or 0.0)
    else:
        turns.answered(number)
    if seconds is None:
        raise failed from error
    turns.waits()
    return seconds
