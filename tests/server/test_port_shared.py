"""The sockets of one server share a port, and no other server does."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from glimpse.server import ports
from glimpse.server.grpc import arguments
from glimpse.server.processes.startup import PortTakenError
from glimpse.server.sockets import connections, port_lock, port_reservation
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import IN, Inside, Loop, channel, classify
from tests.server.conftest import TIMEOUT
from tests.server.hostile.wire import Wire
from tests.server.rig import SIZE, Rig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one socket")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    rig.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_of_servers_that_start_at_the_same_moment_one_has_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each has looked before any of them has bound it, if it could."""
    taken = port_reservation.is_taken

    def slowly(host: str, port: int) -> bool:
        found = taken(host, port)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(ports, "is_taken", slowly)
    port, loops = free_port(), [Loop() for _ in range(3)]
    started: list[Inside] = []
    refused: list[str] = []

    def start(loop: Loop) -> None:
        try:
            started.append(Inside(loop, port=port))
        except PortTakenError as error:
            refused.append(str(error))

    starting = [threading.Thread(target=start, args=(loop,)) for loop in loops]
    for each in starting:
        each.start()
    for each in starting:
        each.join(TIMEOUT)
    try:
        assert len(started) == 1
        assert len(refused) == 2
        assert all(f"Cannot listen on 127.0.0.1:{port}: The address is in use." in each for each in refused)
    finally:
        for running in started:
            running.close()
        for loop in loops:
            loop.close()


def test_where_sockets_cannot_share_a_port_one_serves_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = arguments.of_connections
    monkeypatch.setattr(arguments, "of_connections", lambda settings, **_: limits(settings, shares_port=False))
    loop = Loop()
    running = Inside(loop)
    try:
        assert len(running.server._ports._servers) == 1
        with channel(running.target) as caller:
            assert classify(caller) == IN
    finally:
        running.close()
        loop.close()
    assert "one queue for all callers" in capsys.readouterr().out


def test_a_lock_that_somebody_else_keeps_is_not_waited_for_without_end() -> None:
    async def twice() -> None:
        async with port_lock.held(1), port_lock.held(1, seconds=0.05), port_lock.held(2, seconds=TIMEOUT):
            pass
        async with port_lock.held(1, seconds=TIMEOUT):  # it has been let go
            pass

    asyncio.run(asyncio.wait_for(twice(), TIMEOUT))


def test_a_sandbox_without_unix_sockets_does_not_keep_a_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    async def once() -> None:
        async with port_lock.held(1):
            pass

    with asyncio.Runner() as runner:  # which has a pair of them
        loop = runner.get_loop()
        monkeypatch.setattr(socket, "socket", forbidden)
        loop.run_until_complete(once())


def test_without_the_watch_there_are_no_more_connections_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC counts those of each queue alone."""
    rig = Rig(monkeypatch, "--no-flood-guard", "--max-connections=3")
    try:
        with ExitStack() as opened:
            wires = [opened.enter_context(Wire(rig.target, source=f"127.0.0.{host}")) for host in range(2, 12)]
            assert sum(wire.alive() for wire in wires) == 3
    finally:
        rig.close()


def test_no_socket_listens_while_a_drain_waits_for_the_last_answers(rig: Rig) -> None:
    """A connection that none of them would ever take up would hang in the kernel until the end."""
    port = int(rig.target.rpartition(":")[2])
    raw = pb.RawPixels(height=SIZE, width=SIZE, data=bytes(SIZE * SIZE * 3))
    with grpc.insecure_channel(rig.target) as caller:
        rig.network.hold()
        last = ImageClassifierStub(caller).Classify.future(
            pb.ClassifyRequest(images=[pb.Image(raw=raw)]), timeout=TIMEOUT
        )
        rig.network.begun()
        assert sum(1 for _ in connections.listening(port)) == 64
        rig.stop()
        rig.wait_until(lambda: not any(connections.listening(port)))
        assert not last.done()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
        rig.network.let()
        assert last.result().results


def of_both(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
    """What a name resolves to of which the machine has one address only; 192.0.2.1 is for documentation (RFC 5737)."""
    places = {"both": ("192.0.2.1", "127.0.0.1"), "none": ("192.0.2.1",)}[host]
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in places]


def test_of_a_name_the_addresses_are_held_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost in a container without IPv6."""
    monkeypatch.setattr(socket, "getaddrinfo", of_both)
    held, port = port_reservation.reserve("both", 0, "GLIMPSE_PORT")
    with ExitStack() as opened:
        assert [opened.enter_context(each).getsockname() for each in held] == [("127.0.0.1", port)]
    with pytest.raises(PortTakenError, match="Cannot listen on none:0"):
        port_reservation.reserve("none", 0, "GLIMPSE_PORT")


@pytest.mark.parametrize("number", [1, 3])
def test_all_ports_that_others_have_are_named_at_once(number: int) -> None:
    """With the setting of each, before anything listens."""
    settings = ("port", "http_port", "metrics_port")[:number]
    loop = Loop()
    with ExitStack() as opened:
        ports = {name: opened.enter_context(listening()) for name in settings}
        try:
            with pytest.raises(PortTakenError) as refused:
                Inside(loop, **ports)
        finally:
            loop.close()
    told = str(refused.value)
    assert all(f"127.0.0.1:{port}" in told and f"GLIMPSE_{name.upper()}" in told for name, port in ports.items())
    assert "in use" in told


@contextmanager
def listening() -> Iterator[int]:
    """A port that somebody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])
