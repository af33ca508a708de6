"""Memory that is given back by how much is resident, beside the event loop."""

from __future__ import annotations

import asyncio
import mmap
import os
import platform
import subprocess
import sys
import threading

import pytest

from glimpse.server.machine import memory
from glimpse.server.machine.memory import Memory, keep_trimmed
from tests.server.access.test_uploads import Time, runs, turns
from tests.server.hostile.memory import needs_proc

MB = 1 << 20


class Machine:
    """A process whose memory can be set."""

    def __init__(self) -> None:
        self.resident = 100 * MB
        self.free = self.trims = 0
        self.threads: set[int] = set()
        self.memory = Memory(measure=lambda: self.resident + self.free, count=lambda: self.resident, trim=self._trim)

    def _trim(self, _: int) -> None:
        self.trims += 1
        self.threads.add(threading.get_ident())
        self.free = 0


async def passes(time: Time, seconds: int) -> None:
    for _ in range(seconds):
        await time.passes(1)
        await asyncio.to_thread(lambda: None)
        await turns()


@runs
async def test_what_is_free_is_given_back_whatever_it_was_for() -> None:
    time, machine = Time(), Machine()
    machine.memory.settled()
    keeping = asyncio.create_task(keep_trimmed(machine.memory, lambda: 0, lambda: True))
    await turns()
    await passes(time, 10)
    assert machine.trims == 0
    machine.free = 300 * MB
    await passes(time, 5)
    assert (machine.trims, machine.free) == (1, 0)
    assert threading.get_ident() not in machine.threads
    machine.free = 30 * MB  # too little to gain
    await passes(time, 10)
    assert machine.trims == 1
    keeping.cancel()


@runs
async def test_what_is_in_use_is_looked_for_ever_less_often() -> None:
    time, machine = Time(), Machine()
    machine.memory.settled()
    keeping = asyncio.create_task(keep_trimmed(machine.memory, lambda: 0, lambda: False))
    await turns()
    machine.resident += 500 * MB
    await passes(time, 600)
    assert 8 <= machine.trims <= 20
    keeping.cancel()


@runs
async def test_what_is_accounted_for_is_not_looked_for() -> None:
    time, machine = Time(), Machine()
    machine.memory.settled()
    keeping = asyncio.create_task(keep_trimmed(machine.memory, lambda: 450 * MB, lambda: False))
    await turns()
    machine.resident += 500 * MB
    await passes(time, 60)
    assert machine.trims == 0
    keeping.cancel()


@runs
async def test_what_stays_when_there_is_nothing_to_do_is_the_new_measure() -> None:
    time, machine = Time(), Machine()
    machine.memory.settled()
    keeping = asyncio.create_task(keep_trimmed(machine.memory, lambda: 0, lambda: True))
    await turns()
    machine.resident += 100 * MB
    await passes(time, 5)
    assert machine.memory.beyond() == 0
    machine.resident -= 50 * MB
    await passes(time, 5)
    assert machine.memory.beyond() == 0
    keeping.cancel()


@needs_proc
def test_resident_and_allocated_memory_follow_what_is_held() -> None:
    before, allocated = memory.resident(), memory.allocated()
    assert before is not None
    with mmap.mmap(-1, 64 * MB) as mapped:  # what is allocated may have been resident before
        mapped.write(bytes(64 * MB))
        after = memory.resident()
    assert after is not None
    assert after - before > 32 * MB
    held = bytearray(64 * MB)
    if allocated is not None:  # GNU's C library alone tells
        now = memory.allocated()
        assert now is not None
        assert 60 * MB < now - allocated < 100 * MB
    del held


@runs
async def test_where_nothing_can_be_measured_nothing_is_done() -> None:
    time = Time()
    unknown = Memory(measure=lambda: None, count=lambda: None, trim=lambda _: None)
    unknown.settled()
    assert unknown.beyond() is None
    assert unknown.unfreed() is None
    keeping = asyncio.create_task(keep_trimmed(unknown, lambda: 0, lambda: True))
    await turns()
    await passes(time, 5)
    assert not keeping.done()
    keeping.cancel()


_FAULTS = """
import resource, sys
from glimpse.server.machine import memory
if sys.argv[1] == "kept":
    memory.keep_for_reuse()
def messages():
    return [b"1" * (5 << 20) for _ in range(3)]
messages(), messages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    messages()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Pages that are taken from the system for ten rounds of messages."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _FAULTS, how]
    return int(subprocess.run(command, env=ours | environment, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_memory_of_messages_is_used_again() -> None:
    pages = 10 * 3 * (5 << 20) // mmap.PAGESIZE
    assert faults("kept") < pages / 10
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="131072") > pages / 2  # somebody has said what to keep
