"""What a process says to its supervisor, where that no longer waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from glimpse.server.processes.control_channel import Message
from glimpse.server.supervisor.child import Child, metrics_in
from tests.server.threadless import without_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def open_messages() -> int:
    """Files in memory, sent by other processes, that this one has open."""
    names = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]  # noqa: PTH115
    return sum("memfd:glimpse" in name for name in names)


def test_a_process_without_a_thread_to_wait_for_it_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one will be begun, and nobody would know of this one."""

    async def scenario() -> None:
        with without_threads(monkeypatch) as begun, pytest.raises(OSError, match="can't start new thread"):
            Child("engine", 1, stderr=None, heard=lambda *_: None)
        assert [each.poll() for each in begun] == [-signal.SIGKILL]

    asyncio.run(scenario())


@pytest.mark.parametrize("at", ["before the answer", "as the answer comes"])
def test_an_answer_that_comes_too_late_is_heard_and_leaves_no_open_file(at: str) -> None:
    """A busy machine may be late at any moment: before the answer is read, and between that and its use."""

    before = open_messages()  # those of other tests in this process

    async def scenario() -> None:
        heard: asyncio.Queue[Message] = asyncio.Queue()
        child = Child("engine", 1, stderr=None, heard=lambda _, message: heard.put_nowait(message))
        try:
            asking = asyncio.create_task(child.metrics())
            await asyncio.sleep(0)
            if at == "before the answer":
                asking.cancel()
            else:
                (awaited,) = child._awaited.values()
                awaited.add_done_callback(lambda _: asking.cancel())
            await asyncio.wait([asking])
            assert asking.cancelled()
            assert metrics_in(await asyncio.wait_for(heard.get(), 60))
            assert open_messages() <= before
            assert child._awaited == {}
        finally:
            child.kill()
            await child.ended

    asyncio.run(scenario())
