"""Floods over ten connections against a real server, with a neighbour at another address: `[::1]` beside 127.0.0.x."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from hpack import Encoder

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of
from tests.server.hostile.conftest import eventually
from tests.server.hostile.wire import CHECK, CLASSIFY, PREFACE, STREAM, call, frame, message

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="connections are the kernel's to tell and to close")
_CONNECTIONS = 10
_CALLS = 4000  # that one connection begins at once
_RAW = pb.Image(raw=pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3)))
_REQUEST = pb.ClassifyRequest(images=[_RAW])
_OWN = [("grpc.use_local_subchannel_pool", 1)]
DATA, HEADERS, RST, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4


def begin(stream: int, path: str = CLASSIFY, *more: tuple[str, str], end: bool = True) -> bytes:
    """A call's headers; `end`: and nothing follows."""
    encoder = Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(call(path, *more), huffman=False)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def reset(stream: int) -> bytes:
    return frame(RST, 0, stream, bytes(4))


def each_call(say: Callable[[int], bytes]) -> bytes:
    return b"".join(say(stream) for stream in range(1, 2 * _CALLS, 2))


FLOODS: dict[str, Callable[[], bytes]] = {
    "no message": lambda: each_call(begin),
    "headers and a reset": lambda: each_call(lambda s: begin(s, end=False) + reset(s)),
    "a message and a reset": lambda: each_call(
        lambda s: begin(s, end=False) + frame(DATA, END_STREAM, s, message(b"")) + reset(s)
    ),
    "no such method": lambda: each_call(lambda s: begin(s, "/glimpse.v1.ImageClassifier/Nothing")),
    "streams of nothing": lambda: each_call(lambda s: begin(s, STREAM)),
    "large headers": lambda: each_call(lambda s: begin(s, CLASSIFY, ("x", "y" * 4000))),
    "health checks": lambda: each_call(lambda s: begin(s, CHECK, end=False) + frame(DATA, END_STREAM, s, message(b""))),
    "pings": lambda: frame(PING, 0, 0, bytes(8)) * 60_000,
    "settings": lambda: frame(SETTINGS, 0, 0, b"") * 200_000,
}


_QUICK = {"no message", "headers and a reset", "pings"}


class Flood:
    """Connections from one address that all say the same, each again and again."""

    def __init__(self, port: int, source: str, words: bytes) -> None:
        """Begin."""
        self._to, self._source, self._words = ("127.0.0.1", port), source, PREFACE + frame(SETTINGS, 0, 0, b"") + words
        self._over = threading.Event()
        self.closed = 0  # connections, by the server
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_CONNECTIONS)]
        for each in self._threads:
            each.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.settimeout(1)
                connection.bind((self._source, 0))
                connection.connect(self._to)
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(0.1)
            words = memoryview(self._words)
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    words = words[connection.send(words[: 1 << 16]) :] if words else words
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1 << 20):
                        self.closed += 1
                        return
        except OSError:
            self.closed += 1

    def end(self) -> None:
        """Stop, and wait for the last of them."""
        self._over.set()
        for each in self._threads:
            each.join(TIMEOUT)


class Neighbour:
    """An ordinary caller at another address, now and then."""

    def __init__(self, port: int) -> None:
        """Begin."""
        self._target = f"[::1]:{port}"
        self._over = threading.Event()
        self.ends: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with grpc.insecure_channel(self._target, options=_OWN) as channel:
            stub = ImageClassifierStub(channel)
            while not self._over.wait(0.05):
                self.ends[ended(stub)] += 1

    def end(self) -> Counter[str]:
        """How the calls ended."""
        self._over.set()
        self._thread.join(TIMEOUT)
        return self.ends


def ended(stub: ImageClassifierStub) -> str:
    try:
        stub.Classify(_REQUEST, timeout=TIMEOUT)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017 - of each of many
        return f"{error.code().name}: {error.details()}"
    return "OK"


def closed(running: RunningServer, reason: str = "flood") -> float:
    return metrics_of(running)[f'glimpse_connections_closed_total{{reason="{reason}"}}']


def port_of(running: RunningServer) -> int:
    return int(running.wait_for("listening")["port"])


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for both families."""
    audit = tmp_path_factory.mktemp("audit") / "audit.log"
    running = RunningServer("--host=::", f"--audit-log={audit}")
    try:
        running.wait_for("serving")
        yield running
    finally:
        running.close()


@pytest.mark.parametrize(
    "kind",
    [kind if kind in _QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in FLOODS],
)
def test_a_flood_is_closed_and_a_neighbour_sees_nothing_of_it(flooded: RunningServer, kind: str) -> None:
    """One address in 64 shares the neighbour's queue: then another floods."""
    first = 10 + 2 * list(FLOODS).index(kind)
    assert any(_sees_nothing_of(flooded, kind, f"127.0.0.{host}") for host in (first, first + 1))


def _sees_nothing_of(flooded: RunningServer, kind: str, source: str) -> bool:
    before, port = closed(flooded), port_of(flooded)
    neighbour = Neighbour(port)
    eventually(lambda: neighbour.ends["OK"], lambda calls: calls > 2)
    flood = Flood(port, source, FLOODS[kind]())
    try:
        assert eventually(lambda: closed(flooded), lambda now: now > before) > before
        assert eventually(lambda: flood.closed, bool)
        answered = neighbour.ends["OK"]
        eventually(lambda: neighbour.ends["OK"], lambda calls: calls > answered + 10)
    finally:
        flood.end()
    return neighbour.end().keys() == {"OK"}


def test_a_block_is_in_both_logs_and_ends(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    running = start_server("--host=::", f"--audit-log={audit}")
    running.wait_for("serving")
    port = port_of(running)
    flood = Flood(port, "127.0.0.1", FLOODS["no message"]())
    try:
        told = running.wait_for("connections closed")
        eventually(lambda: metrics_of(running)["glimpse_addresses_blocked"], lambda count: count == 1)
    finally:
        flood.end()
    assert (told["reason"], told["address"], told["level"]) == ("flood", "127.0.0.1", "warning")
    assert told["connections"] >= 1
    # Its address waits, and is let in.
    with grpc.insecure_channel(running.target, options=_OWN) as channel:
        assert eventually(lambda: ended(ImageClassifierStub(channel)), lambda end: end == "OK") == "OK"
    assert eventually(lambda: metrics_of(running)["glimpse_addresses_blocked"], lambda count: count == 0) == 0
    running.terminate()
    assert running.exit_code() == 0
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["address"] for line in lines if line.get("event") == "connections closed"][:1] == ["127.0.0.1"]


def test_one_address_cannot_take_all_connections(start_server: Callable[..., RunningServer]) -> None:
    """One address in 64 shares the neighbour's queue, whose connections are taken for a moment: then another tries."""
    running = start_server("--host=::", "--max-connections=40")
    running.wait_for("serving")
    assert any(_neighbour_of_connections(running, f"127.0.0.{host}") == "OK" for host in (2, 3, 4))


def _neighbour_of_connections(running: RunningServer, source: str) -> str:
    """How the neighbour's call ends while `source` has all connections that there may be, and gives back some."""
    port, before = port_of(running), closed(running, "share")
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT, (source, 0)))
        with grpc.insecure_channel(f"[::1]:{port}", options=_OWN) as channel:
            # A neighbour has a queue, and with it connections, of its own.
            end = ended(ImageClassifierStub(channel))
            # And the address gives back what is too much, so that it keeps nobody out for long who shares its queue.
            assert eventually(lambda: closed(running, "share"), lambda now: now > before) > before
            assert eventually(lambda: ended(ImageClassifierStub(channel)), lambda last: last == "OK") == "OK"
    return end


# Honest callers, all from the address that floods would come from.


@pytest.fixture(scope="module")
def busy() -> Iterator[RunningServer]:
    """A server that is soon overloaded, on a machine with many cores, too."""
    running = RunningServer("--host=::", "--max-images-in-flight=8", "--max-images-per-request=2", "--max-batch-size=2")
    try:
        running.wait_for("serving")
        yield running
        assert [line for line in running.log if line["event"] == "connections closed"] == []
        assert [closed(running, reason) for reason in ("flood", "share", "blocked")] == [0, 0, 0]
    finally:
        running.close()


def test_whoever_gives_up_a_thousand_calls_is_not_closed(busy: RunningServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port_of(busy)}", options=_OWN) as channel:
        send: Any = channel.unary_unary("/glimpse.v1.ImageClassifier/Classify")
        words = _REQUEST.SerializeToString()
        calls = [send.future(words, timeout=TIMEOUT) for _ in range(1000)]
        for each in calls:
            each.cancel()
        assert eventually(lambda: ended(ImageClassifierStub(channel)), lambda end: end == "OK") == "OK"


@pytest.mark.ci
def test_a_fleet_that_is_refused_and_comes_back_is_not_closed(busy: RunningServer) -> None:
    def call_on(_: int) -> set[str]:
        seen = set()
        with grpc.insecure_channel(f"127.0.0.1:{port_of(busy)}", options=_OWN) as channel:
            for _ in range(20):
                seen.add(ended(ImageClassifierStub(channel)).partition(":")[0])
                time.sleep(0.05)
        return seen

    with ThreadPoolExecutor(64) as pool:
        seen = set().union(*pool.map(call_on, range(64)))
    assert seen <= {"OK", "RESOURCE_EXHAUSTED"}


@pytest.mark.ci
def test_five_hundred_connections_of_an_address_are_all_answered(busy: RunningServer) -> None:
    with ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port_of(busy)}", options=_OWN)) for _ in range(500)
        ]
        for channel in channels:
            stub = ImageClassifierStub(channel)
            assert eventually(lambda stub=stub: ended(stub), lambda end: end == "OK") == "OK"  # type: ignore[misc]


def test_hedged_calls_are_not_closed(busy: RunningServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port_of(busy)}", options=_OWN) as channel:
        send: Any = channel.unary_unary("/glimpse.v1.ImageClassifier/Classify")
        words = _REQUEST.SerializeToString()
        for _ in range(200):
            first, second = (send.future(words, timeout=TIMEOUT) for _ in range(2))
            first.exception()
            second.cancel()
        assert ended(ImageClassifierStub(channel)).partition(":")[0] in {"OK", "RESOURCE_EXHAUSTED"}
