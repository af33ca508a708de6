"""The control channel between the supervisor and its processes: real sockets, and a real process that ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from glimpse.models.child_environment import child_environment
from glimpse.server.processes.control_channel import ControlChannel, memory_file, read_memory_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def ends() -> Iterator[tuple[ControlChannel, ControlChannel]]:
    ours, theirs = ControlChannel.pair()
    other = ControlChannel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_messages_stay_apart_and_in_order(ends: tuple[ControlChannel, ControlChannel]) -> None:
    ours, theirs = ends
    for number in range(3):
        assert ours.send({"number": number})
    assert [message.body["number"] for _ in range(3) if (message := theirs.receive())] == [0, 1, 2]


def test_files_travel_with_a_message(ends: tuple[ControlChannel, ControlChannel]) -> None:
    ours, theirs = ends
    file = memory_file("test", b"x" * 300_000)
    assert ours.send({"what": "content"}, [file])
    os.close(file)
    message = theirs.receive()
    assert message is not None
    assert not os.get_inheritable(message.files[0])
    assert read_memory_file(message.files[0]) == b"x" * 300_000


def test_a_closed_end_is_seen_by_both_ways_of_receiving(ends: tuple[ControlChannel, ControlChannel]) -> None:
    ours, theirs = ends
    ours.close()
    assert theirs.receive() is None
    assert asyncio.run(theirs.received()) is None
    assert not theirs.send({})


def test_the_event_loop_goes_on_while_a_message_is_awaited(ends: tuple[ControlChannel, ControlChannel]) -> None:
    ours, theirs = ends

    async def both() -> object:
        waiting = asyncio.create_task(theirs.received())
        await asyncio.sleep(0)
        assert not waiting.done()
        ours.send({"late": True})
        return await waiting

    assert asyncio.run(both()) == ({"late": True}, ())


def test_who_does_not_read_makes_nobody_wait(ends: tuple[ControlChannel, ControlChannel]) -> None:
    ours, _ = ends
    assert not all(ours.send({"text": "x" * 10_000}) for _ in range(10_000))


def test_what_is_too_large_is_refused(ends: tuple[ControlChannel, ControlChannel]) -> None:
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        ends[0].send({"text": "x" * 70_000})


def test_a_process_that_is_killed_closes_its_end() -> None:
    ours, theirs = ControlChannel.pair()
    code = (
        "import sys; from glimpse.server.processes.control_channel import ControlChannel as C; "
        "c = C.inherited(int(sys.argv[1])); c.send({'began': True}); c.receive()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=child_environment()
    ) as process:
        theirs.close()
        assert ours.receive() == ({"began": True}, ())
        process.kill()
        assert ours.receive() is None
    ours.close()
