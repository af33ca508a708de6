"""Messages that are announced and never sent: what they take of memory, and of the turns of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import RunningServer
from tests.server.hostile import tell
from tests.server.hostile.conftest import Attacked
from tests.server.hostile.memory import MIB, forget_peak, needs_proc, peak, resident
from tests.server.hostile.wire import Wire, call, message

pytestmark = needs_proc
_MESSAGE = 16 * MIB
_UPLOADS = 8


@pytest.fixture(scope="module")
def attacked(picture: Callable[[int], pb.Image]) -> Iterator[Attacked]:
    """A server of its own, which gives an upload little time: its memory is looked at."""
    running = RunningServer(f"--max-uploads={_UPLOADS}", "--upload-seconds=2")
    try:
        running.wait_for("serving")
        yield Attacked(running, pb.ClassifyRequest(images=[picture(1)]))
    finally:
        running.close()


def announce(wire: Wire, calls: int, sent: int) -> None:
    """Calls whose message is 16 MiB long, they say, and of which so many bytes come."""
    for stream in range(1, 2 * calls, 2):
        begun = message(bytes(sent), length=_MESSAGE)
        wire.send_or_hear(wire.headers(stream, call()) + wire.data(stream, begun, end=False))


@pytest.mark.parametrize(
    ("connections", "calls", "sent"), [(1, 500, 0), (100, 4, 0), (30, 1, 3 * MIB), (30, 10, 60_000)]
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
        # Each connection may have 4 MiB on the way that nobody has read, and each upload a whole message.
        assert grown < connections * 4 * MIB + _UPLOADS * _MESSAGE + 50 * MIB
        for wire in wires:
            wire.cut()
