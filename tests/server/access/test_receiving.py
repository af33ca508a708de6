"""A budget of bytes for messages on their way: who waits, who is ended, and that nothing is looked at without need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Any

import pytest

from glimpse.server.access.receiving import Receiving
from glimpse.server.access.uploads import Uploads
from glimpse.server.errors import DeadlineExceededError, OverloadedError, Reason
from glimpse.server.machine.memory import Memory
from tests.server.access.test_uploads import Time, runs, turns

MB = 1 << 20
_MOST, _LARGEST = 256 * MB, 16 * MB


class Wires:
    """Connections, and what they received; each read waits until it is told how it ends."""

    def __init__(self, receiving: Receiving, *, known: bool = True) -> None:
        self.receiving = receiving
        self.received: dict[str, int] = {}
        self.asked = 0
        if known:
            receiving.follow(received=self._tell)

    def _tell(self, peers: Iterable[str]) -> dict[str, int]:
        self.asked += 1
        return {peer: self.received.get(peer, 0) for peer in peers}

    async def receive(self, time: Time, sizes: dict[str, int]) -> None:
        """Have connections receive so much, little by little."""
        for step in range(1, 41):
            self.received |= {peer: size * step // 40 for peer, size in sizes.items()}
            await time.passes(0.05)
        await time.passes(0.05)
        await turns()

    def stream(self, who: str, peer: str) -> Piece:
        return Piece(self, who, peer)


class Piece:
    """A piece of a stream that is read."""

    def __init__(self, wires: Wires, who: str, peer: str) -> None:
        self.begun = False
        self.message: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(wires.receiving.read(who, peer, self._read))

    def _read(self) -> Awaitable[object]:
        self.begun = True
        return self.message

    @property
    def reason(self) -> Reason | None:
        """Why it was ended; None: it was not."""
        error = self.task.exception() if self.task.done() and not self.task.cancelled() else None
        return error.reason if isinstance(error, (OverloadedError, DeadlineExceededError)) else None


async def end(*pieces: Piece) -> None:
    for piece in pieces:
        piece.task.cancel()
    await asyncio.gather(*(piece.task for piece in pieces), return_exceptions=True)


async def given_back() -> None:
    """Wait for the thread that gives memory back: what was handed to threads before this is done."""
    for _ in range(3):
        await asyncio.to_thread(lambda: None)
        await turns()


def made(seconds: float = 30.0) -> Receiving:
    return Receiving(_MOST, _LARGEST, seconds)


@runs
async def test_what_fits_in_any_case_is_not_looked_at() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    for _ in range(20):
        pieces = [wires.stream("a", "1") for _ in range(16)]
        await time.passes(0.04)
        for piece in pieces:
            piece.message.set_result(b"whole")
        assert await asyncio.gather(*(piece.task for piece in pieces)) == [b"whole"] * 16
    assert wires.asked == 0
    await time.passes(1)
    assert receiving._timer is None


@runs
async def test_who_holds_the_budget_waits_and_who_holds_little_does_not() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    large = [wires.stream("a", f"a{number}") for number in range(17)]
    await time.passes(0.1)
    await wires.receive(time, {f"a{number}": 16 * MB - 1 for number in range(17)})
    assert [piece.reason for piece in large] == [None] * 17  # a little above is no reason to end anybody
    late, other = wires.stream("a", "a17"), wires.stream("b", "b")
    await turns()
    assert (late.begun, other.begun) == (False, True)
    for piece in large[:8]:
        piece.message.set_result(bytes(16 * MB - 1))
    await turns()
    await time.passes(0.1)
    await turns()
    assert late.begun
    await end(*large, late, other)


@runs
async def test_well_above_it_those_who_hold_the_most_are_ended_the_oldest_first() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    small = [wires.stream("b", f"b{number}") for number in range(20)]
    large = [wires.stream("a", f"a{number}") for number in range(30)]
    await time.passes(0.1)
    await wires.receive(
        time, {f"b{number}": MB for number in range(20)} | {f"a{number}": 10 * MB for number in range(30)}
    )
    assert [piece.reason for piece in small] == [None] * 20
    ended = [piece.reason for piece in large]
    assert set(ended) == {None, Reason.QUEUE_FULL}
    assert 3 <= ended.count(Reason.QUEUE_FULL) <= 15  # of 320 MB together 288 or fewer are left
    with pytest.raises(OverloadedError, match=r"GLIMPSE_MAX_RECEIVING_BYTES \(268435456\)") as refused:
        await large[ended.index(Reason.QUEUE_FULL)].task
    assert refused.value.retry_after
    # What those had sent is not counted once more.
    await time.passes(0.1)
    await turns()
    assert [piece.reason for piece in large] == ended
    await end(*small, *large)


@runs
async def test_what_comes_fast_is_ended_before_it_is_there() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    pieces = [wires.stream("a", str(number)) for number in range(100)]
    most = 0
    for _ in range(40):
        going = {str(number) for number, piece in enumerate(pieces) if not piece.task.done()}
        for number in range(100):
            wires.received[str(number)] = wires.received.get(str(number), 0) + (MB // 2 if str(number) in going else 0)
        most = max(most, sum(wires.received[peer] for peer in going))
        await time.passes(0.05)
        await turns()
    assert most < _MOST + _MOST / 4
    assert any(not piece.task.done() for piece in pieces)
    await end(*pieces)


@runs
async def test_a_silent_stream_may_stay_and_a_slow_piece_may_not() -> None:
    time, receiving = Time(), made(seconds=30.0)
    wires = Wires(receiving)
    silent, slow = wires.stream("a", "silent"), wires.stream("b", "slow")
    for second in range(4000):
        wires.received["silent"] = second // 100 * 17
        wires.received["slow"] = max(0, second - 3900) * 100_000
        await time.passes(1)
    await turns()
    assert slow.reason is Reason.UPLOAD_TOO_SLOW
    assert not silent.task.done()
    silent.message.set_result(b"after an hour")
    assert await silent.task == b"after an hour"


@runs
async def test_what_is_not_in_memory_is_no_reason_to_end_anybody() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving, known=False)  # then each may hold the largest message
    resident = [100 * MB]
    memory = Memory(measure=lambda: resident[0], count=lambda: resident[0], trim=lambda _: None)
    memory.settled()
    receiving.follow(memory=memory)
    pieces = [wires.stream("a", "unix:") for _ in range(60)]
    await time.passes(1)
    assert not any(piece.task.done() for piece in pieces)
    another = wires.stream("a", "unix:")
    await turns()
    assert another.begun
    resident[0] += 500 * MB
    await time.passes(1)
    await turns()
    assert any(piece.reason is Reason.QUEUE_FULL for piece in pieces)
    await end(*pieces, another)


@runs
async def test_where_nothing_can_be_counted_idle_streams_may_stay() -> None:
    """On macOS the system tells neither what connections have received nor what of the process is in memory."""
    time, receiving = Time(), made()
    wires = Wires(receiving, known=False)
    memory = Memory(measure=lambda: None, count=lambda: None, trim=lambda _: None)
    memory.settled()
    receiving.follow(memory=memory)
    pieces = [wires.stream("a", "unix:") for _ in range(60)]
    await time.passes(1)
    another = wires.stream("a", "unix:")
    await turns()
    assert another.begun
    assert not any(piece.task.done() for piece in pieces)
    await end(*pieces, another)


@runs
async def test_what_is_allocated_beyond_the_estimate_counts_unless_it_is_free() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    resident, allocated = [100 * MB], [100 * MB]
    trimmed: list[int] = []
    memory = Memory(measure=lambda: resident[0], count=lambda: allocated[0], trim=trimmed.append)
    memory.settled()
    receiving.follow(memory=memory)
    pieces = [wires.stream("a", str(number)) for number in range(40)]
    await time.passes(0.1)
    await wires.receive(time, {str(number): 5 * MB for number in range(40)})
    resident[0] += 450 * MB
    allocated[0] += 200 * MB  # the rest is free
    for _ in range(10):
        await time.passes(0.1)
        await given_back()
    assert trimmed
    assert not any(piece.task.done() for piece in pieces)
    allocated[0] += 300 * MB  # frames of a few bytes
    for _ in range(10):
        await time.passes(0.2)
        await given_back()
    assert any(piece.reason is Reason.QUEUE_FULL for piece in pieces)
    await end(*pieces)


@runs
async def test_whole_messages_that_wait_elsewhere_count_too() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    besides = [250 * MB]
    receiving.follow(besides=lambda: besides[0])
    pieces = [wires.stream("a", str(number)) for number in range(20)]
    await time.passes(0.1)
    await wires.receive(time, {str(number): 8 * MB for number in range(10)})
    assert [piece.reason for piece in pieces[10:]] == [None] * 10  # they hold nothing
    assert Reason.QUEUE_FULL in [piece.reason for piece in pieces[:10]]
    await end(*pieces)


@runs
async def test_several_pools_of_turns_share_one_budget() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    pools = [Uploads(64, 30.0, receiving), Uploads(64, 30.0, receiving)]
    silent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    held = [wires.stream("a", str(number)) for number in range(17)]
    await time.passes(0.1)
    await wires.receive(time, {str(number): 16 * MB - 1 for number in range(17)})
    asked: list[str] = []

    def read(name: str) -> Awaitable[Any]:
        asked.append(name)
        return silent

    waiting = [asyncio.create_task(pool.receive(who, "2", partial(read, who))) for pool in pools for who in ("a", "b")]
    await turns()
    assert asked == ["b", "b"]
    await end(*held)
    await time.passes(0.1)
    await turns()
    assert asked == ["b", "b", "a", "a"]
    silent.set_result(b"whole")
    assert await asyncio.gather(*waiting) == [b"whole"] * 4
    assert not any(pool._held or pool._waiting or pool._ends for pool in pools)


@runs
async def test_a_lone_message_that_is_ended_gives_its_turn_back() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    uploads = Uploads(64, 30.0, receiving)
    tasks = [
        asyncio.create_task(uploads.receive("a" if n < 40 else "b", str(n), asyncio.Event().wait)) for n in range(60)
    ]
    await time.passes(0.1)
    await wires.receive(time, {str(number): 16 * MB for number in range(60)})
    ended = [task for task in tasks if task.done()]
    assert 40 <= len(ended) < 60
    for task in ended:
        with pytest.raises(OverloadedError) as refused:
            await task
        assert refused.value.reason is Reason.QUEUE_FULL
    assert sum(uploads._held.values()) == 60 - len(ended)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not uploads._held
    assert not receiving._unfinished.readings


@runs
async def test_who_leaves_while_reading_or_waiting_holds_nothing() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    held = [wires.stream("a", str(number)) for number in range(17)]
    await time.passes(0.1)
    await wires.receive(time, {str(number): 16 * MB - 1 for number in range(17)})
    late = [wires.stream("a", "late") for _ in range(5)]
    await turns()
    assert len(receiving._waiting) == 5
    await end(*late, *held)
    assert all(piece.task.cancelled() for piece in (*late, *held))
    assert not receiving._waiting
    assert not receiving._unfinished.readings
    await time.passes(0.1)
    await time.passes(0.3)
    assert receiving.held == 0
    assert not receiving.tight
    assert receiving._timer is None


@runs
async def test_the_end_of_a_stream_and_errors_of_a_read_are_handed_on() -> None:
    receiving = made()
    wires = Wires(receiving)
    ended, failed = wires.stream("a", "1"), wires.stream("a", "1")
    await turns()
    eof = object()
    ended.message.set_result(eof)
    failed.message.set_exception(ValueError("no message"))
    assert await ended.task is eof
    with pytest.raises(ValueError, match="no message"):
        await failed.task
    assert not receiving._unfinished.readings


@runs
async def test_who_leaves_in_the_moment_in_which_it_is_ended_has_gone() -> None:
    time, receiving = Time(), made()
    wires = Wires(receiving)
    pieces = [wires.stream("a", str(number)) for number in range(40)]
    await time.passes(0.1)
    wires.received = {str(number): 16 * MB for number in range(40)}
    time.now += 0.1
    receiving._look()
    for piece in pieces:
        piece.task.cancel()
    await asyncio.gather(*(piece.task for piece in pieces), return_exceptions=True)
    assert all(piece.task.cancelled() for piece in pieces)
