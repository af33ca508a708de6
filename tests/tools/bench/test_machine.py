from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tools.bench import machine

# Uses CPU time until it has used what it was told, says so, and waits to be ended.
_BUSY = """
import sys, time
block = bytearray(64 << 20)
while time.process_time() < float(sys.argv[1]):
    pass
print("done", flush=True)
sys.stdin.read()
"""
_PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_BUSY!r}, "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("done", flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""


@pytest.fixture
def idle_parent_of_a_busy_child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        yield parent.pid


def test_the_cpu_time_of_a_busy_child_is_the_parents(idle_parent_of_a_busy_child: int) -> None:
    used = machine.cpu_seconds(idle_parent_of_a_busy_child)
    assert 0.3 <= used < 3  # what it counted itself, and two starts of Python
    assert machine.cpu_seconds(idle_parent_of_a_busy_child) == pytest.approx(used, abs=0.1)  # both are idle now


def test_the_memory_of_a_child_is_the_parents(idle_parent_of_a_busy_child: int) -> None:
    assert 64 << 20 < machine.rss_bytes(idle_parent_of_a_busy_child) < 256 << 20


def test_the_cpu_time_of_a_child_that_has_ended_is_kept() -> None:
    before = machine.cpu_seconds(os.getpid())
    subprocess.run(
        [sys.executable, "-c", _BUSY, "0.2"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )
    # The system counts in ticks of a hundredth of a second, and so may lack one at either end.
    assert machine.cpu_seconds(os.getpid()) - before > 0.17


def test_a_process_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        machine.cpu_seconds(2**22 + 1)


def test_the_threads_of_a_process_are_told_apart() -> None:
    assert machine.threads(os.getpid())[os.getpid()][1] > 0


def test_the_machine_has_cores_and_memory_and_a_kernel() -> None:
    found = machine.description()
    assert f"{machine.cores()} cores" in found["CPU"]
    assert found["memory"].endswith("GiB")
    assert "numpy" in found["packages"]


def test_what_the_machine_did_grows_by_what_this_process_does() -> None:
    before, own = machine.busy_seconds()["busy"], machine.cpu_seconds(os.getpid())
    subprocess.run(
        [sys.executable, "-c", _BUSY, "0.2"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )
    # Ticks of the whole machine are counted by sampling.
    assert machine.busy_seconds()["busy"] - before > 0.5 * (machine.cpu_seconds(os.getpid()) - own)
