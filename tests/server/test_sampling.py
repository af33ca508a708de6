"""Which of many like lines are written: the first few, then one a second, with a count of what was left out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from glimpse.server import sampling
from glimpse.server.sampling import LeftOut, Sampled


async def until(condition: Callable[[], bool]) -> None:
    """Ask again and again."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to pass")


class Clock:
    """Stands still until it is turned on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[LeftOut]:
    return []


@pytest.fixture
def sampled(clock: Clock, told: list[LeftOut]) -> Sampled:
    return Sampled(told.append, clock=clock)


def test_the_first_few_are_written_then_one_a_second_with_the_count(sampled: Sampled, clock: Clock) -> None:
    assert [sampled.left_out("host", "A", "a") for _ in range(8)] == [0] * 5 + [None] * 3
    clock.now += 1.0
    assert [sampled.left_out("host", "A", "a") for _ in range(2)] == [3, None]
    clock.now += 1.0
    assert sampled.left_out("host", "A", "a") == 1
    clock.now += 60.0
    assert [sampled.left_out("host", "A", "a") for _ in range(6)] == [0] * 5 + [None]


def test_another_caller_code_or_reason_has_lines_of_its_own(sampled: Sampled) -> None:
    for _ in range(100):
        sampled.left_out("host", "A", "a")
    assert sampled.left_out("other", "A", "a") == 0
    assert sampled.left_out("host", "B", "a") == 0
    assert sampled.left_out("host", "A", "b") == 0


def test_callers_of_many_addresses_together_have_so_many_lines_a_second(sampled: Sampled, clock: Clock) -> None:
    def written(begin: int) -> int:
        return sum(sampled.left_out(f"host {n}", "A", "a") is not None for n in range(begin, begin + 500))

    assert written(0) == 50
    clock.now += 1.0
    assert written(500) == 10
    clock.now += 3.0
    assert written(1000) == 30


def test_memory_of_callers_is_bounded_and_no_line_is_lost_from_the_count(clock: Clock, told: list[LeftOut]) -> None:
    sampled = Sampled(told.append, clock=clock, most=100)
    lines = 0
    for number in range(20_000):
        lines += sampled.left_out(f"host {number % 7001}", "A", "a") is not None
        clock.now += 0.0001
    assert len(sampled._kinds) == 100
    sampled.close()
    assert lines + sum(each.lines for each in told) == 20_000
    assert len(told) <= 6


def test_a_table_that_is_full_takes_less_than_a_megabyte(sampled: Sampled) -> None:
    for number in range(50_000):
        sampled.left_out(f"2001:db8:{number:x}::/64", "UNAUTHENTICATED", "TOKEN_REFUSED")
    taken = sys.getsizeof(sampled._kinds) + sum(
        sys.getsizeof(key) + sys.getsizeof(key[0]) + sys.getsizeof(kind) + 3 * 24
        for key, kind in sampled._kinds.items()
    )
    assert taken < 1 << 20


def test_the_last_count_is_told_when_the_flood_has_ended(
    sampled: Sampled, clock: Clock, told: list[LeftOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LOOK", 0.001)

    async def flood() -> None:
        for _ in range(105):
            sampled.left_out("host", "A", "a")
        await asyncio.sleep(0.05)
        assert told == []  # it goes on: a later line would say it
        clock.now += 1.0
        await until(lambda: bool(told))
        assert sampled._look is None  # nothing is looked at any more

    asyncio.run(flood())
    assert told == [LeftOut("host", "A", "a", 100)]
    asyncio.run(flood_again(sampled, clock, told))
    assert told[1:] == [LeftOut("host", "A", "a", 104)]


async def flood_again(sampled: Sampled, clock: Clock, told: list[LeftOut]) -> None:
    """In another loop, as after the end of a server."""
    for _ in range(105):
        sampled.left_out("host", "A", "a")
    clock.now += 1.0
    await until(lambda: len(told) == 2)


def test_a_loop_that_ended_does_not_keep_the_count_from_being_told(
    sampled: Sampled, clock: Clock, told: list[LeftOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flood() -> None:
        for _ in range(10):
            sampled.left_out("host", "A", "a")

    asyncio.run(flood())
    monkeypatch.setattr(sampling, "_LOOK", 0.001)

    async def again() -> None:
        sampled.left_out("host", "A", "a")
        clock.now += 1.0
        await until(lambda: bool(told))

    asyncio.run(again())
    assert told == [LeftOut("host", "A", "a", 6)]


def test_nothing_is_looked_at_while_no_line_is_left_out(sampled: Sampled) -> None:
    async def calm() -> None:
        for _ in range(5):
            sampled.left_out("host", "A", "a")

    asyncio.run(calm())
    assert sampled._look is None
