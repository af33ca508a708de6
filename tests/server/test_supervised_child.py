"""What a process says to its supervisor, where that no longer waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from glimpse.server.processes.control_channel import Message
from glimpse.server.supervisor import child as child_module
from glimpse.server.supervisor import supervisor
from glimpse.server.supervisor.child import Child, ChildEndedError, ChildFailedError, metrics_in
from glimpse.server.supervisor.plan import Plan
from tests.server.engine.engines import plain_settings
from tests.server.fake_executor import FakeClock
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


def test_what_cannot_be_made_sense_of_does_not_end_the_listening() -> None:
    """Else the process would be taken for one that hangs, though it answers."""

    async def scenario() -> None:
        senseless = asyncio.Event()

        def heard(_: Child, message: Message) -> None:
            message.close()
            senseless.set()
            raise KeyError("ready")

        child = Child("engine", 1, stderr=None, heard=heard)
        try:
            child.send({"do": "metrics", "number": 77})  # nobody waits for these
            await asyncio.wait_for(senseless.wait(), 60)
            assert await asyncio.wait_for(child.metrics(), 60)
        finally:
            child.kill()
            await child.ended

    asyncio.run(scenario())


def test_a_start_that_takes_long_and_fails_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after a minute of loading would else be begun again without a pause, and again."""

    async def scenario() -> None:
        lived: list[float] = []

        class Pauses:
            def pause(self, seconds: float) -> float:
                lived.append(seconds)
                if len(lived) == 2:
                    supervising._ending = True
                return 0.0

        class Ended(SimpleNamespace):
            async def killed(self) -> int:
                return -9

            async def gone(self) -> None:
                clock.now += 30.0

        def begin(*_: object) -> Ended:
            return Ended(kind="engine", number=1, pid=1, name="engine 1", hung="", metrics=None)

        async def bring_up(_: Ended) -> None:
            clock.now += 60.0
            if not lived:
                raise ChildFailedError(4, "It cannot be loaded.")

        clock = FakeClock()
        monkeypatch.setattr(supervisor, "Backoff", Pauses)
        monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=clock))
        supervising = supervisor.Supervisor(plain_settings(), Plan(1, 1))
        supervising._first.add(("engine", 1))
        supervising._told_serving = True
        monkeypatch.setattr(supervising._processes, "begin", begin)
        monkeypatch.setattr(supervising._processes, "bring_up", bring_up)
        await supervising._keep("engine", 1)
        assert lived == [0.0, 30.0]

    asyncio.run(scenario())


def test_a_process_that_the_kernel_does_not_let_go_of_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a device or a disk that does not answer, and no signal reaches it: another one is begun."""

    async def scenario() -> None:
        child = Child("engine", 1, stderr=None, heard=lambda *_: None)
        try:
            with monkeypatch.context() as held, structlog.testing.capture_logs() as log:
                held.setattr(child_module, "_DEATH_SECONDS", 0.01)
                held.setattr(Child, "kill", lambda _: None)
                assert await child.killed() is None
                await child.end(0.0)
                child.give_up()
                asking = asyncio.create_task(child.told("nothing"))
                for waiting in (child.gone(), asking, child.told("anything")):
                    with pytest.raises(ChildEndedError):
                        await asyncio.wait_for(waiting, 60)
            assert [(line["event"], line["pid"]) for line in log] == [("a process cannot be ended", child.pid)] * 2
        finally:
            child.kill()
        assert await child.ended == -signal.SIGKILL
        assert await child.killed() == -signal.SIGKILL

    asyncio.run(scenario())
