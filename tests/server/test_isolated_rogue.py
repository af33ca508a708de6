"""Decoder processes that are not what they should be: they make no sense, say half, or do not start."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.server.decoding import process, worker_protocol
from glimpse.server.decoding.isolated import Isolated
from glimpse.server.errors import InternalError, InvalidImageError, Reason
from tests.server.isolation import LIMITS, MIB, PNG, RECIPE, SECONDS, Make, assert_nothing_kept, held_up, pools


@pytest.fixture
def make() -> Iterator[Make]:
    """Start pools of a test's own; they are closed with it."""
    with pools() as start:
        yield start


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Have decoder processes run a program of the test's own, which tells its starts in the file that is returned."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "_MODULE", "rogue")
    starts = tmp_path / "starts"

    def write(program: str) -> Path:
        note = f"with open({str(starts)!r}, 'a') as file: file.write('x')"
        (tmp_path / "rogue.py").write_text(f"import os, socket, sys\n{note}\n{program}\n")
        return starts

    return write


SAYS = """
server = socket.socket(fileno=0)
server.sendall(b'ready')
server.recv(1)
server.sendall({reply})
server.recv(1 << 30, socket.MSG_WAITALL)
"""
SIZE = worker_protocol.reply_size(RECIPE)


@pytest.mark.parametrize(
    "reply",
    [
        f"b'\\x01' * {SIZE}",
        f"b'\\xff' * {SIZE}",
        f"bytes({SIZE})",
        f"(b'\\x01' + bytes(8) + b'\\x02\\x00\\x00\\x00' + b'[]').ljust({SIZE})",
        f"(b'\\x00' + b'\\xff' * 8 + bytes([0, 36, 0, 0])).ljust({SIZE})",
    ],
)
def test_a_process_that_makes_no_sense_is_replaced(rogue: Callable[[str], Path], make: Make, reply: str) -> None:
    rogue(SAYS.format(reply=reply))
    pool = make()
    with pytest.raises(InvalidImageError, match="could not be understood") as refused:
        pool(PNG, RECIPE)
    assert refused.value.reason is Reason.DECODER_FAILED
    assert pool.restarts == 1


def test_a_process_that_says_half_is_given_up(rogue: Callable[[str], Path], make: Make) -> None:
    rogue(SAYS.format(reply=f"bytes({SIZE - 1})"))
    with pytest.raises(InvalidImageError, match=r"more than 0\.5 s"):
        make(seconds=0.5)(PNG, RECIPE)


@pytest.mark.parametrize("program", ["sys.exit(7)", "os.kill(os.getpid(), 9)", "os.write(0, b'hello')"])
def test_processes_that_cannot_start_are_told_of_at_once(rogue: Callable[[str], Path], program: str) -> None:
    rogue(program)

    def start() -> None:
        pool = Isolated(LIMITS, workers=2, memory_bytes=256 * MIB, seconds=SECONDS)
        with pytest.raises(RuntimeError, match="Cannot start a decoder process"):
            pool.start()

    assert_nothing_kept(start, 5)


def test_a_process_that_no_longer_starts_is_not_started_over_and_over(rogue: Callable[[str], Path], make: Make) -> None:
    starts = rogue(SAYS.format(reply="b''") + "os._exit(0)")
    pool = make()
    rogue("sys.exit(7)")
    with held_up(pool) as (pid, answer):
        os.kill(pid, signal.SIGKILL)
        assert isinstance(answer.exception(SECONDS), InvalidImageError)
    for _ in range(100):
        with pytest.raises(InternalError):
            pool(PNG, RECIPE)
    assert len(starts.read_text()) < 20  # the first one, its replacement, and one a second


def test_a_message_too_long_for_a_reply_is_cut() -> None:
    error = InvalidImageError(Reason.CORRUPT_IMAGE, "ü" * 100_000, field="encoded")
    with pytest.raises(InvalidImageError) as refused:
        worker_protocol.read_reply(memoryview(worker_protocol.refusal(error, RECIPE)), RECIPE, 1.0)
    assert refused.value.reason is Reason.CORRUPT_IMAGE
    assert refused.value.message
    assert set(refused.value.message) == {"ü"}


@settings(max_examples=500, deadline=None)
@given(head=st.binary(min_size=13, max_size=200))
def test_no_reply_is_anything_but_pixels_a_refusal_or_nonsense(head: bytes) -> None:
    with contextlib.suppress(InvalidImageError, ValueError):
        assert worker_protocol.read_reply(memoryview(head.ljust(SIZE, b"\0")), RECIPE, 1.0).pixels.shape == (48, 64, 3)
