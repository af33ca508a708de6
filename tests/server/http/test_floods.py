"""Floods over HTTP against a real server, with an honest caller at another address: `[::1]` beside 127.0.0.x."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from io import BytesIO

import pytest
from PIL import Image

from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.hostile.conftest import eventually
from tests.variations import with_two_workers_too

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(sys.platform != "linux", reason="connections are the kernel's to tell and to close"),
]
_CONNECTIONS = 10
_MOST = 60  # connections that the server allows, of an address three quarters
_REQUEST = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
_HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
_TWO_LENGTHS = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
FLOODS = {
    "no HTTP": b"\x16\x03\x01 no HTTP\r\n\r\n",
    "bodies of two lengths": _TWO_LENGTHS,
    "paths that there are not": _REQUEST * 4000,
}


class Flood:
    """Connections from one address that all say the same, each again and again."""

    def __init__(self, port: int, source: str, words: bytes) -> None:
        """Begin."""
        self._port, self._source, self._words = port, source, words
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_CONNECTIONS)]
        for each in self._threads:
            each.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.settimeout(0.5)
                connection.bind((self._source, 0))
                connection.connect(("127.0.0.1", self._port))
                connection.settimeout(0)
                words = memoryview(self._words)
                while not self._over.is_set():
                    with contextlib.suppress(BlockingIOError):
                        words = words[connection.send(words[: 1 << 16]) :] if words else words
                    with contextlib.suppress(BlockingIOError):
                        if not connection.recv(1 << 20):
                            break

    def end(self) -> None:
        """Stop, and wait for the last of them."""
        self._over.set()
        for each in self._threads:
            each.join(TIMEOUT)


class Neighbour:
    """An ordinary caller at another address, with a connection for each request, now and then."""

    def __init__(self, port: int) -> None:
        """Begin."""
        self._port, self._over = port, threading.Event()
        self.ends: Counter[str] = Counter()
        photo = BytesIO()
        Image.new("RGB", (40, 40), "red").save(photo, "PNG")
        self._photo = photo.getvalue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            self.ends[self._ask()] += 1

    def _ask(self) -> str:
        connection = HTTPConnection("::1", self._port, timeout=TIMEOUT)
        try:
            connection.request("POST", "/classify", self._photo)
            answer = connection.getresponse()
            return "OK" if answer.status == 200 else f"{answer.status}: {answer.read()!r}"
        except (OSError, HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    def served(self) -> bool:
        """Whether it gets ten more answers."""
        so_far = self.ends["OK"]
        return eventually(lambda: self.ends["OK"], lambda now: now > so_far + 10) > so_far + 10

    def end(self) -> Counter[str]:
        """How the requests ended."""
        self._over.set()
        self._thread.join(TIMEOUT)
        return self.ends


def value(running: RunningServer, name: str) -> float:
    return metrics_of(running)[name]


@pytest.fixture(scope="module")
def flooded() -> Iterator[RunningServer]:
    """A server for both families."""
    running = RunningServer(
        "--host=::", "--http-port=0", f"--max-connections={_MOST}", "--upload-seconds=2", "--handshake-seconds=2"
    )
    try:
        running.wait_for("serving")
        yield running
    finally:
        running.close()


@pytest.fixture
def port(flooded: RunningServer) -> int:
    return int(flooded.wait_for("listening")["http_port"])


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_blocked_and_an_honest_caller_is_served(flooded: RunningServer, port: int, kind: str) -> None:
    neighbour = Neighbour(port)
    flood = Flood(port, f"127.0.0.{20 + list(FLOODS).index(kind)}", FLOODS[kind])
    try:
        blocked = eventually(lambda: value(flooded, "glimpse_addresses_blocked"), bool)
        assert blocked, "the flood goes on"
        assert neighbour.served()
    finally:
        flood.end()
    assert neighbour.end().keys() == {"OK"}
    assert not eventually(lambda: value(flooded, "glimpse_addresses_blocked"), lambda now: not now)


@with_two_workers_too
def test_connections_of_a_flood_are_closed_at_once(start_server: Callable[..., RunningServer]) -> None:
    running = start_server("--http-port=0")
    running.wait_for("serving")
    name = 'glimpse_connections_closed_total{reason="flood"}'
    port = int(running.http.rpartition(":")[2])
    flood = Flood(port, "127.0.0.40", FLOODS["paths that there are not"])
    try:
        assert eventually(lambda: value(running, name), bool)
    finally:
        flood.end()
    assert not eventually(lambda: value(running, "glimpse_addresses_blocked"), lambda now: not now)


@pytest.mark.parametrize("said", [b"", _HEAD], ids=["nothing", "a body that does not come"])
def test_who_holds_connections_keeps_nobody_else_out(port: int, said: bytes) -> None:
    """An address holds three quarters of what there may be, and no longer than a head or a body may take."""
    neighbour = Neighbour(port)
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT)) for _ in range(2 * _MOST)]
        for each in held:
            with contextlib.suppress(OSError):  # closed as it came
                each.sendall(said)
        assert neighbour.served()
        for each in held:
            each.settimeout(TIMEOUT)
            with contextlib.suppress(OSError):
                while each.recv(1 << 16):
                    pass
    assert neighbour.end().keys() == {"OK"}
