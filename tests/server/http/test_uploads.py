"""Bodies that are never complete: what they hold of the memory is bounded, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.hostile.memory import MIB, forget_peak, needs_proc, peak, resident
from tests.server.http.asking import ask, connected, picture, port_of
from tests.server.rig import Rig

_BODY, _BUDGET, _SENDERS = 8 * MIB, 32 * MIB, 32


def test_what_has_come_of_a_body_is_counted_by_its_connection(start_rig: Callable[..., Rig]) -> None:
    rig = start_rig()
    with connected(port_of(rig)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + bytes(400_000))
        peer = f"ipv4:127.0.0.1:{connection.getsockname()[1]}"
        http_port = rig.server._ports.http
        assert http_port is not None
        rig.wait_until(lambda: http_port.received([peer]).get(peer, 0) > 400_000)
        assert http_port.received(["ipv4:192.0.2.1:1"]) == {}
    rig.wait_until(lambda: not any(rig.held().values()))


@pytest.fixture
def frugal(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server that lets unfinished messages hold little."""
    running = start_server(
        "--http-port=0",
        f"--max-receiving-bytes={_BUDGET}",
        f"--max-message-bytes={_BODY}",
        f"--max-image-bytes={_BODY}",
        "--upload-seconds=20",
    )
    running.wait_for("serving")
    return running


@contextlib.contextmanager
def sending(port: int, answers: list[bytes]) -> Iterator[None]:
    """Send a body but for its last byte, and take the answer, in a thread."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)

    def send() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % _BODY)
            for _ in range(_BODY // MIB - 1):
                connection.sendall(bytes(MIB))
            connection.sendall(bytes(MIB - 1))
            answers.append(connection.recv(1000))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        thread.join(TIMEOUT)
        connection.close()


@needs_proc
@pytest.mark.ci
def test_bodies_a_byte_short_hold_no_more_than_their_budget(frugal: RunningServer) -> None:
    """32 bodies of 8 MiB, all but the last byte of each, are 256 MiB; 32 may be held."""
    port = int(frugal.http.rpartition(":")[2])
    assert ask(port, "/classify", picture()).status == 200
    before = resident(frugal.process.pid)
    forget_peak(frugal.process.pid)
    answers = list[bytes]()
    with contextlib.ExitStack() as stack:
        for _ in range(_SENDERS):
            stack.enter_context(sending(port, answers))
        pause = threading.Event()
        while len(answers) < 4:  # those who hold the most, or take too long, are ended
            assert ask(port, "/classify", picture()).status in {200, 429}
            pause.wait(0.2)
        grown = peak(frugal.process.pid) - before
    assert grown < _BUDGET + 150 * MIB
    assert all(each.startswith((b"HTTP/1.1 429 ", b"HTTP/1.1 408 ")) for each in answers if each)
    assert ask(port, "/classify", picture()).status == 200
