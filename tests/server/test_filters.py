"""Which connections the kernel lets in, and to which of several sockets, on real sockets of both families."""

from __future__ import annotations

import contextlib
import ipaddress
import multiprocessing
import select
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from glimpse.server.sockets import filters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filters are Linux' own")
_SOON = 0.3  # seconds, after which a connection on the loopback that has not come does not come
_LONG = 10.0
SECRET = 0x1234_5679


def listen(port: int = 0) -> socket.socket:
    listening = socket.socket(socket.AF_INET6)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("::", port))
    listening.listen(64)
    return listening


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Eight that share a port."""
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(listen())
        yield [first, *(opened.enter_context(listen(first.getsockname()[1])) for _ in range(7))]


def connects(source: str, port: int, seconds: float) -> bool:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(seconds)
        connection.bind((source, 0))
        try:
            connection.connect(("::1" if ":" in source else "127.0.0.1", port))
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize("number", [1, 2, filters.MOST])
def test_new_connections_from_a_blocked_address_are_dropped(sockets: list[socket.socket], number: int) -> None:
    port = sockets[0].getsockname()[1]
    others = [ipaddress.ip_network(f"198.51.100.{host}") for host in range(number - 1)]
    assert filters.drop_new(port, [*others, ipaddress.ip_network("127.0.0.5")])
    assert not connects("127.0.0.5", port, _SOON)
    assert connects("127.0.0.6", port, _LONG)
    assert connects("::1", port, _LONG)
    assert filters.drop_new(port, [])
    assert connects("127.0.0.5", port, _LONG)


def test_an_ipv6_network_is_dropped_and_no_other(sockets: list[socket.socket]) -> None:
    port = sockets[0].getsockname()[1]
    assert filters.drop_new(port, [ipaddress.ip_network("2001:db8::/64"), ipaddress.ip_network("0:0:0:1::/64")])
    assert connects("::1", port, _LONG)
    assert filters.drop_new(port, [ipaddress.ip_network("::/64")])
    assert not connects("::1", port, _SOON)
    assert connects("127.0.0.1", port, _LONG)


def test_connections_that_are_there_go_on_while_their_address_is_blocked(sockets: list[socket.socket]) -> None:
    port = sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        ready, _, _ = select.select(sockets, [], [], _LONG)
        accepted, _ = ready[0].accept()
        with accepted:
            assert filters.drop_new(port, [ipaddress.ip_network("127.0.0.1")])
            connection.sendall(b"still here")
            assert accepted.recv(100) == b"still here"


def taken_by(sockets: list[socket.socket], sources: Iterable[str]) -> dict[str, set[int]]:
    """Which of the sockets got the connections of each address."""
    port = sockets[0].getsockname()[1]
    assert filters.spread(port, len(sockets))
    took: dict[str, set[int]] = {}
    with contextlib.ExitStack() as opened:
        for source in sources:
            connection = opened.enter_context(socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET))
            connection.bind((source, 0))
            connection.connect(("::1" if ":" in source else "127.0.0.1", port))
            ready, _, _ = select.select(sockets, [], [], _LONG)
            assert len(ready) == 1
            opened.enter_context(ready[0].accept()[0])
            took.setdefault(source, set()).add(sockets.index(ready[0]))
    return took


def test_all_connections_of_an_address_come_to_the_same_socket(sockets: list[socket.socket]) -> None:
    took = taken_by(sockets, [*(f"127.0.0.{host}" for host in range(1, 33)), "::1"] * 4)
    assert all(len(each) == 1 for each in took.values()), took
    assert len(set.union(*took.values())) > 1, "addresses are spread"


def test_nobody_chooses_an_address_that_shares_another_s_socket(sockets: list[socket.socket]) -> None:
    """Not even one with the same lowest bits."""
    took = taken_by(sockets, [f"127.{network}.0.1" for network in range(0, 256, 8)])
    assert len(set.union(*took.values())) > 1


def elsewhere(port: int, number: int, ready: Any, end: Any) -> None:
    """In another process: the sockets of another worker, on the same port."""
    with contextlib.ExitStack() as opened:
        listening = [opened.enter_context(listen(port)) for _ in range(number)]
        assert filters.spread(port, number, workers=2, secret=SECRET)
        ready.set()
        end.wait(_LONG)
        taken, _, _ = select.select(listening, [], [], 0)
        for each in taken:
            each.accept()[0].close()


@pytest.mark.parametrize("source", ["127.0.0.3", "::1"])
def test_two_processes_share_the_connections_of_an_address(source: str) -> None:
    """Within a process they come to one socket; which process it is depends on the port that they come from."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    with contextlib.ExitStack() as opened:
        mine = [opened.enter_context(listen())]
        port = mine[0].getsockname()[1]
        mine += [opened.enter_context(listen(port)) for _ in range(3)]
        other = context.Process(target=elsewhere, args=(port, 4, ready, end))
        other.start()
        try:
            assert ready.wait(_LONG)
            assert filters.spread(port, 4, workers=2, secret=SECRET)
            for _ in range(64):
                connection = opened.enter_context(socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET))
                connection.bind((source, 0))
                connection.connect(("::1" if ":" in source else "127.0.0.1", port))
            took = [0] * len(mine)
            while taken := select.select(mine, [], [], _SOON)[0]:
                for each in taken:
                    opened.enter_context(each.accept()[0])
                    took[mine.index(each)] += 1
            assert sorted(took)[:3] == [0, 0, 0], took
            assert 8 < sum(took) < 56, "each process has about half of them"
        finally:
            end.set()
            other.join(_LONG)
    assert other.exitcode == 0


def test_where_nothing_listens_nothing_is_promised() -> None:
    with listen() as listening:
        port = listening.getsockname()[1]
    assert not filters.drop_new(port, [ipaddress.ip_network("192.0.2.1")])
    assert not filters.spread(port, 8)
