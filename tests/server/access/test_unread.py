"""Answers that are ready and that nobody takes are so many, and those who have most of them are cut off."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import grpc
import pytest
from PIL import Image

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.closing import Closing
from glimpse.server.access.unread import Unread
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT
from tests.server.hostile.memory import needs_proc
from tests.server.hostile.wire import Wire, call, message
from tests.server.rig import Rig

MOST = 40


def small() -> pb.ClassifyRequest:
    """Of some hundred bytes, so that all fit into the window that a connection has at its beginning."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    return pb.ClassifyRequest(images=[pb.Image(encoded=file.getvalue())])


BODY = small()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    rig.close()


@needs_proc
def test_who_takes_no_answers_is_cut_off_and_a_neighbour_is_answered(rig: Rig) -> None:
    unread = rig.server._ports._access.unread
    unread._most = MOST
    body = message(BODY.SerializeToString())
    with (
        Wire(rig.target, settings={4: 0}) as few,  # a window of nothing
        Wire(rig.target, settings={4: 0}) as many,
        grpc.insecure_channel(rig.other_target) as channel,
    ):
        for wire, calls in (few, MOST // 4), (many, MOST):
            assert wire.alive()  # and has been told of the settings
            for stream in range(1, 2 * calls, 2):
                wire.send(wire.headers(stream, call()), wire.data(stream, body))
            assert wire.alive()
        rig.wait_until(lambda: len(unread) == MOST // 4 + MOST)
        assert rig.held()["calls"] == 0  # they are not among those that are worked on

        def again() -> bool:
            assert ImageClassifierStub(channel).Classify(BODY, timeout=TIMEOUT).results
            return len(unread) <= MOST

        rig.wait_until(again)
        assert many.ending(999) == "closed"
        assert few.alive()
        rig.wait_until(lambda: len(unread) == MOST // 4)  # the calls of a connection end one by one


class Recorded(Closing):
    def __init__(self) -> None:
        super().__init__()
        self.closed: list[str] = []

    def close(self, peer: str) -> None:
        self.closed.append(peer)


def context(host: int, port: int, address: str = "") -> CallContext:
    made = CallContext("id", "method", f"ipv4:192.0.2.{host}:{port}")
    made.address = address
    return made


async def sent(unread: Unread, context: CallContext, taken: asyncio.Event) -> None:
    unread.send(context)
    await taken.wait()


def test_those_who_have_most_are_cut_off_once_theirs_have_waited() -> None:
    async def scene() -> None:
        now, closing, taken = [100.0], Recorded(), asyncio.Event()
        unread = Unread(closing, most=10, clock=lambda: now[0])
        visits = [*[context(1, 1)] * 3, *[context(2, port) for port in range(8)], *[context(3, 1, "198.51.100.1")] * 30]
        tasks = [asyncio.create_task(sent(unread, each, taken)) for each in visits]
        await asyncio.sleep(0)
        assert len(unread) == len(visits)
        assert closing.closed == []  # a moment ago there were none: they may just be on their way
        now[0] += 20
        tasks.append(asyncio.create_task(sent(unread, context(4, 1), taken)))
        await asyncio.sleep(0)
        assert closing.closed == []  # the process may have stood still meanwhile
        for _ in range(5):
            now[0] += 0.11
            tasks.append(asyncio.create_task(sent(unread, context(4, 1), taken)))
            await asyncio.sleep(0)
        # Not the proxy's, which is many callers'; of the others first the address that has most.
        assert closing.closed[0].startswith("ipv4:192.0.2.2:")
        assert "ipv4:192.0.2.3:1" not in closing.closed
        assert "ipv4:192.0.2.4:1" not in closing.closed
        taken.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert len(unread) == 0

    asyncio.run(scene())


def test_as_long_as_there_are_few_nobody_is_cut_off() -> None:
    async def scene() -> None:
        now, closing, taken = [100.0], Recorded(), asyncio.Event()
        unread = Unread(closing, most=11, clock=lambda: now[0])
        tasks = [asyncio.create_task(sent(unread, context(1, 1), taken)) for _ in range(10)]
        await asyncio.sleep(0)
        now[0] += 1000
        for _ in range(1000):  # others come and take theirs
            other = asyncio.Event()
            other.set()
            await asyncio.create_task(sent(unread, context(2, 1), other))
        tasks[0].cancel()  # a caller who leaves is one less
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        taken.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert closing.closed == []

    asyncio.run(scene())
