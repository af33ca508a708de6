"""Messages that are announced and never sent: what they take of memory, and of the turns of others."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

import pytest
from hyperframe.frame import HeadersFrame, SettingsFrame, WindowUpdateFrame

from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.hostile import tell
from tests.server.hostile.conftest import Attacked
from tests.server.hostile.memory import MIB, forget_peak, needs_proc, peak, resident
from tests.server.hostile.wire import CLASSIFY, STREAM, Wire, call, message

pytestmark = needs_proc
_MESSAGE = 16 * MIB
_WINDOW = 64 << 10
_UPLOADS = 8
_BUDGET = 64 * MIB


@pytest.fixture(scope="module")
def attacked(picture: Callable[[int], pb.Image]) -> Iterator[Attacked]:
    """A server of its own, which gives an upload little time: its memory is looked at."""
    running = RunningServer(f"--max-uploads={_UPLOADS}", "--upload-seconds=2")
    try:
        running.wait_for("serving")
        yield Attacked(running, pb.ClassifyRequest(images=[picture(1)]))
    finally:
        running.close()


@pytest.fixture(scope="module")
def frugal(picture: Callable[[int], pb.Image]) -> Iterator[Attacked]:
    """A server with a small budget for messages on their way."""
    running = RunningServer(f"--max-receiving-bytes={_BUDGET}")
    try:
        running.wait_for("serving")
        yield Attacked(running, pb.ClassifyRequest(images=[picture(1)]))
    finally:
        running.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", [CLASSIFY, STREAM])
@pytest.mark.parametrize("connections", [1, 24])
def test_uploads_a_byte_short_hold_no_more_than_their_budget(frugal: Attacked, connections: int, path: str) -> None:
    """24 messages of 16 MiB, of which all but the last byte is sent as fast as it is taken, are 384 MiB."""
    frugal.check_answers()
    before = resident(frugal.pid)
    forget_peak(frugal.pid)
    with ExitStack() as stack:
        senders = [stack.enter_context(Pusher(frugal.target, 24 // connections, path)) for _ in range(connections)]
        wait_for(lambda: sum(sender.ended for sender in senders) >= 12)
        frugal.check_answers()
        grown = peak(frugal.pid) - before
        words = {word for sender in senders for word in sender.words}
        assert words <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}  # the latter: its bytes came too slowly
    tell(f"{connections} connections: {grown / MIB:+.0f} MiB")
    assert grown < _BUDGET + 150 * MIB
    wait_for(lambda: resident(frugal.pid) - before < 80 * MIB)
    frugal.check_unharmed()


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in itertools.repeat(None, int(TIMEOUT / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError("it never came to pass")


class Pusher(threading.Thread):
    """One connection that sends messages of 16 MiB as fast as their windows allow, all but their last byte."""

    def __init__(self, target: str, calls: int, path: str) -> None:
        super().__init__(daemon=True)
        self._wire, self._path = Wire(target), path
        self._left = dict.fromkeys(range(1, 2 * calls, 2), _MESSAGE - 1)
        self._windows = dict.fromkeys((0, *self._left), 65_535)
        self.ended, self.words = 0, set[str]()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the thread waits for a word: closing alone would not wake it
            self._wire._socket.shutdown(socket.SHUT_RDWR)
        self.join(TIMEOUT)
        self._wire.cut()

    def run(self) -> None:
        wire = self._wire
        for stream in self._left:
            wire.send(
                wire.headers(stream, call(self._path)), wire.data(stream, message(b"", length=_MESSAGE), end=False)
            )
            self._windows[stream] -= 5
            self._windows[0] -= 5
        self._push()
        with contextlib.suppress(AssertionError, OSError, ValueError):  # it was cut
            for each in wire.read():
                if isinstance(each, WindowUpdateFrame) and each.stream_id in self._windows:
                    self._windows[each.stream_id] += each.window_increment
                if isinstance(each, SettingsFrame) and SettingsFrame.INITIAL_WINDOW_SIZE in each.settings:
                    more = each.settings[SettingsFrame.INITIAL_WINDOW_SIZE] - 65_535
                    for stream in self._left:
                        self._windows[stream] += more
                if isinstance(each, HeadersFrame) and "END_STREAM" in each.flags:
                    self._left.pop(each.stream_id, None)
                    self.words.add(wire.ending(each.stream_id))
                    self.ended += 1
                self._push()

    def _push(self) -> None:
        for stream, left in self._left.items():
            size = max(0, min(left, self._windows[stream], self._windows[0]))
            if size and self._wire.send(self._wire.data(stream, bytes(size), end=False)):
                self._left[stream] -= size
                self._windows[stream] -= size
                self._windows[0] -= size


def announce(wire: Wire, calls: int, sent: int) -> None:
    """Calls whose message is 16 MiB long, they say, and of which so many bytes come."""
    for stream in range(1, 2 * calls, 2):
        begun = message(bytes(sent), length=_MESSAGE)
        wire.send_or_hear(wire.headers(stream, call()) + wire.data(stream, begun, end=False))


@pytest.mark.parametrize(
    ("connections", "calls", "sent"),
    [
        pytest.param(1, 500, 0, marks=pytest.mark.ci),
        pytest.param(100, 4, 0, marks=pytest.mark.ci),
        (30, 1, 3 * MIB),
        pytest.param(30, 10, 60_000, marks=pytest.mark.ci),
    ],
)
def test_uploads_that_stop_take_bounded_memory_and_nobody_else_s_turn(
    attacked: Attacked, connections: int, calls: int, sent: int
) -> None:
    forget_peak(attacked.pid)
    before = resident(attacked.pid)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(attacked.target)) for _ in range(connections)]
        for wire in wires:
            announce(wire, calls, sent)
        attacked.check_answers()
        grown = peak(attacked.pid) - before
        tell(f"{connections} connections with {calls} calls of {sent} bytes each: {grown / MIB:+.0f} MiB")
        # Each call may have a window on the way that nobody has read, and each upload a whole message.
        assert grown < connections * calls * _WINDOW + _UPLOADS * _MESSAGE + 50 * MIB
        for wire in wires:
            wire.cut()
