"""A rolling restart of the servers is invisible to callers: announced, without a word, and by a kill."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

import pytest

from glimpse.client import Client, Code, GlimpseError, UnavailableError
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import Glimpse
from tests.client.scripted import Context, ScriptedServer, response, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]

_PATIENCE = 60.0  # seconds after which something hangs


class Callers:
    """Three threads that classify one image after the other, and one with a bulk run that ends with them."""

    def __init__(self, target: str, image: bytes, label: str, *, pause: float = 0.0) -> None:
        self._pause = pause  # seconds between the calls of a thread
        self._image = image
        self._label = label
        self._over = threading.Event()
        self._client = Client(target)
        self.failures: list[BaseException | str] = []
        self.single = [0, 0, 0]  # answers of each thread
        self.sent = 0  # images of the bulk run
        self.bulk: list[int] = []  # those that were answered
        self._threads = [threading.Thread(target=self._one_by_one, args=(number,)) for number in range(3)]
        self._threads.append(threading.Thread(target=self._in_bulk))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._client.close()

    def go_on(self, answers: int = 20) -> None:
        """Wait for so many more answers of each kind."""
        single, bulk = sum(self.single), len(self.bulk)
        end = time.monotonic() + _PATIENCE
        while sum(self.single) < single + answers or len(self.bulk) < bulk + answers:
            assert not self.failures, self.failures
            assert time.monotonic() < end, "no more answers"
            self._over.wait(0.01)

    def _check(self, label: str) -> None:
        if label != self._label:
            self.failures.append(label)

    def _one_by_one(self, number: int) -> None:
        while not self._over.is_set():
            try:
                self._check(self._client.classify(self._image).predictions[0].label)
            except GlimpseError as error:
                self.failures.append(error)
            self.single[number] += 1
            self._over.wait(self._pause)

    def _images(self) -> Iterator[tuple[int, bytes]]:
        while not self._over.is_set():
            yield self.sent, self._image
            self.sent += 1
            self._over.wait(self._pause)

    def _in_bulk(self) -> None:
        try:
            for number, result in self._client.classify_many(self._images(), in_flight=8):
                self._check(result.predictions[0].label if result.predictions else str(result.error))
                self.bulk.append(number)
        except GlimpseError as error:
            self.failures.append(error)


def test_a_server_that_says_not_serving_gets_no_more_calls_and_is_found_again(scripted: ScriptedServer) -> None:
    """A server that says that it is not serving gets no more calls, and is found again when it serves."""
    with ScriptedServer() as other, Client(f"ipv4:{scripted.target},{other.target}") as client:
        reached(client, scripted)
        scripted.serving(yes=False)
        settle(client, other)
        before = len(scripted.requests)
        for _ in range(20):
            client.classify(b"cat")
        assert len(scripted.requests) == before

        scripted.serving(yes=True)
        reached(client, scripted)


def reached(client: Client, server: ScriptedServer) -> None:
    """Call until that server is among those that are called."""
    before = len(server.requests)
    end = time.monotonic() + _PATIENCE
    while len(server.requests) == before:
        assert time.monotonic() < end
        client.classify(b"cat")


def settle(client: Client, server: ScriptedServer) -> None:
    """Call until that server alone is called: the news of another's health takes a moment."""
    in_a_row = 0
    end = time.monotonic() + _PATIENCE
    while in_a_row < 6:
        assert time.monotonic() < end
        before = len(server.requests)
        client.classify(b"cat")
        in_a_row = in_a_row + 1 if len(server.requests) > before else 0


def test_a_server_without_health_is_called_all_the_same(glimpse: Glimpse) -> None:
    with ScriptedServer(offers_health=False) as server, Client(server.target) as client:
        assert client.classify(b"cat").predictions[0].label == "cat"
        ended = glimpse("describe", "--target", server.target)
    assert (ended.returncode, ended.stderr) == (0, ""), "gRPC's own log is not for the command line"


def test_the_only_server_says_what_keeps_it_from_serving(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    scripted.serving(yes=False)
    with (
        Client(scripted.target) as client,
        pytest.raises(UnavailableError, match="is not serving: it is loading") as caught,
    ):
        client.classify(b"cat")
    assert caught.value.code is Code.UNAVAILABLE

    ended = glimpse("describe", "--target", scripted.target)
    assert ended.returncode == 3
    assert "is not serving: it is loading" in ended.stderr


def test_who_is_told_to_wait_gets_the_answer_of_a_server_that_comes_later(scripted: ScriptedServer) -> None:
    scripted.serving(yes=False)
    with Client(scripted.target, wait_for_ready=True) as client:
        coming = threading.Timer(0.2, scripted.serving, kwargs={"yes": True})
        coming.start()
        assert client.classify(b"cat").predictions[0].label == "cat"
        assert [result.predictions[0].label for _, result in client.classify_many([("a", b"dog")])] == ["dog"]
        coming.join()


@pytest.mark.parametrize("way", ["announced", "without a word"])
def test_a_rolling_restart_of_scripted_servers_is_invisible(way: str) -> None:
    pace = threading.Event()  # never set: some calls are always in flight

    def classify(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        pace.wait(0.005)
        return response(request)

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            pace.wait(0.005)
            yield stream_response(request)

    def start(port: int = 0) -> ScriptedServer:
        server = ScriptedServer(port=port)
        server.classify, server.stream = classify, stream
        server.__enter__()
        return server

    servers = [start(), start()]
    try:
        with Callers("ipv4:" + ",".join(server.target for server in servers), b"cat", "cat") as callers:
            callers.go_on()
            for index, server in enumerate(servers):
                if way == "announced":
                    server.serving(yes=False)
                    callers.go_on()
                server.stop()
                callers.go_on()
                servers[index] = start(server.port)
                end = time.monotonic() + _PATIENCE
                while not servers[index].requests:  # until the client has found it again
                    assert time.monotonic() < end
                    callers.go_on(1)
    finally:
        for server in servers:
            server.stop()

    assert callers.failures == []
    assert all(callers.single)
    assert sorted(callers.bulk) == list(range(callers.sent))


class Server(Protocol):
    """What these tests need of a running server."""

    def wait_for(self, event: str, *, seconds: float = ...) -> object: ...
    def terminate(self, number: signal.Signals = ...) -> None: ...
    def exit_code(self) -> int: ...


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: a server that is started again needs to know its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rolling_restart_of_real_servers_is_invisible(start_server: Callable[..., Server], cat_photo: Path) -> None:
    def start(port: int) -> Server:
        return start_server(f"--port={port}", "--drain-announce-seconds=1", "--max-batch-size=8")

    ports = free_ports(2)
    servers = [start(port) for port in ports]
    for server in servers:
        server.wait_for("serving", seconds=300)
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    # Some processor time is left to the servers that load.
    with Callers(target, cat_photo.read_bytes(), "cat", pause=0.02) as callers:
        callers.go_on()
        for index in (0, 1):
            servers[index].terminate()
            assert servers[index].exit_code() == 0
            callers.go_on()
            servers[index] = start(ports[index])
            servers[index].wait_for("serving", seconds=300)
            # gRPC looks for a server every 3 seconds; a rollout is slower than that.
            callers.go_on(200)
        servers[0].terminate(signal.SIGKILL)
        callers.go_on(100)

    assert callers.failures == []
    assert all(callers.single)
    assert sorted(callers.bulk) == list(range(callers.sent))
    print(f"answers: {sum(callers.single)} to single calls, {len(callers.bulk)} in bulk")  # noqa: T201 - for `-s`
