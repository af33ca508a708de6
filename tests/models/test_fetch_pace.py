"""How long a server may keep a download, by a clock that the server of the test turns on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse.models.published import Checksum, DownloadPolicy, FetchError, fetch
from glimpse.models.published.transfer_limits import RetryableError, TransferLimits
from tests.models.web import BODY, Behaviour, Handler, Server, checkpoint, serving, whole


class Clock:
    """Stands still until it is turned on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def policy(clock: Clock, seconds: float = 3600.0) -> DownloadPolicy:
    """Small enough for the body of the tests, of 10 kB."""
    return DownloadPolicy(attempts=3, backoff=0.0, timeout=30.0, rate=100.0, window=60.0, seconds=seconds, clock=clock)


def drip(handler: Handler, clock: Clock, data: bytes, seconds: float) -> None:
    """Send byte by byte, each so many seconds after the one before, until the other side has had enough."""
    for at in range(len(data)):
        clock.now += seconds
        try:
            handler.connection.sendall(data[at : at + 1])
        except OSError:
            return
        if handler.state.release.wait(0.002):
            return


HEAD = b'HTTP/1.1 200 OK\r\nETag: "first"\r\n'


def body(length: int) -> bytes:
    return HEAD + f"Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [
        (body(len(BODY)), BODY),
        (b"", HEAD * 1000),
        (HEAD, b"X-a: 1\r\n" * 1000),
        (b"HTTP/1.1 200 ", b"O" * 10_000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 10_000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-a: 1\r\n" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 9999\r\n", b"X-a: 1\r\n" * 1000),
        (b"HTTP/1.1 503 Busy\r\n", b"X-a: 1\r\n" * 1000),
    ],
    ids=["file", "start", "headers", "reason", "size of a chunk", "trailers", "continue", "redirect", "error"],
)
def test_a_drip_of_whatever_is_given_up(
    server: Server, tmp_path: Path, clock: Clock, at_once: bytes, slowly: bytes
) -> None:
    def drips(handler: Handler) -> None:
        handler.connection.sendall(at_once)
        drip(handler, clock, slowly, 20.0)

    server.script = [drips] * 100
    # Whenever the other side comes to look at the clock, all that has been sent until then was too slow.
    with pytest.raises(FetchError, match="bytes a second for"):
        fetch(checkpoint(server.url), tmp_path, policy=policy(clock, seconds=1e9))
    assert len(server.requests) == 3
    assert not (tmp_path / "net.h5").exists()


def test_a_byte_a_connection_is_no_progress(server: Server, tmp_path: Path, clock: Clock) -> None:
    def a_byte_more(handler: Handler) -> None:
        clock.now += 1.0
        begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        span = f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}"
        handler.start(206 if begin else 200, len(BODY) - begin, **({"Content_Range": span} if begin else {}))
        handler.wfile.write(BODY[begin : begin + 1])

    server.script = [a_byte_more] * 1000
    with pytest.raises(FetchError, match="the connection ended after 3 of 10240 bytes"):
        fetch(checkpoint(server.url), tmp_path, policy=policy(clock))
    assert len(server.requests) == 3
    assert (tmp_path / "net.h5.part").read_bytes() == BODY[:3]


def test_a_link_that_breaks_often_and_brings_the_least_goes_on(server: Server, tmp_path: Path, clock: Clock) -> None:
    def a_little_more(handler: Handler) -> None:
        clock.now += 5.0
        begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        span = f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}"
        handler.start(206 if begin else 200, len(BODY) - begin, **({"Content_Range": span} if begin else {}))
        handler.wfile.write(BODY[begin : begin + 600])

    server.script = [a_little_more] * 1000
    assert fetch(checkpoint(server.url), tmp_path, policy=policy(clock)).read_bytes() == BODY
    assert len(server.requests) == 18


def received(folder: Path) -> int:
    """How many bytes of a download have been written."""
    try:
        return (folder / "net.h5.part").stat().st_size
    except FileNotFoundError:
        return 0


def test_a_slow_link_is_served_to_the_end(server: Server, tmp_path: Path, clock: Clock) -> None:
    def slow(handler: Handler) -> None:
        handler.connection.sendall(body(len(BODY)))
        for at in range(0, len(BODY), 512):
            clock.now += 5.0
            handler.connection.sendall(BODY[at : at + 512])
            # Else the clock may have run through the whole download before any of it is read.
            while at + 512 < len(BODY) and received(tmp_path) < at + 512:
                if handler.state.release.wait(0.001):
                    return

    server.script = [slow]
    assert fetch(checkpoint(server.url), tmp_path, policy=policy(clock)).read_bytes() == BODY
    assert clock.now == 100.0


def test_what_takes_too_long_in_all_ends_and_goes_on_at_the_next_start(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    def slow(handler: Handler) -> None:
        handler.connection.sendall(body(len(BODY)))
        for at in range(0, len(BODY), 512):
            clock.now += 5.0
            try:
                handler.connection.sendall(BODY[at : at + 512])
            except OSError:
                return
            # Else the clock may have run through the whole download before any of it is read.
            while received(tmp_path) < at + 512:
                if handler.state.release.wait(0.001):
                    return

    server.script = [slow]
    with pytest.raises(FetchError, match=r"was not downloaded within 50 seconds, the maximum duration\. Start again"):
        fetch(checkpoint(server.url), tmp_path, policy=policy(clock, seconds=50.0))
    kept = (tmp_path / "net.h5.part").stat().st_size
    assert 0 < kept < len(BODY)
    assert fetch(checkpoint(server.url), tmp_path, policy=policy(clock)).read_bytes() == BODY
    assert server.ranges()[1] == f"bytes={kept}-"


def endless(head: bytes, piece: bytes) -> Behaviour:
    """As much as the other side takes."""

    def behave(handler: Handler) -> None:
        handler.connection.sendall(head)
        try:
            while not handler.state.release.is_set():
                handler.connection.sendall(piece)
        except OSError:
            pass

    return behave


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-a: 1\r\n" * 1000),
    ],
    ids=["continue", "trailers"],
)
def test_what_is_no_part_of_the_file_is_bounded_too(
    server: Server, tmp_path: Path, clock: Clock, head: bytes, piece: bytes
) -> None:
    server.script = [endless(head, piece)] * 100
    with pytest.raises(FetchError, match="more than the maximum size of a file"):
        fetch(
            checkpoint(server.url), tmp_path, policy=DownloadPolicy(attempts=2, backoff=0.0, limit=1 << 20, clock=clock)
        )
    assert len(server.requests) == 2


def test_the_body_of_a_redirect_is_not_read(server: Server, tmp_path: Path) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.script = [endless(head, b"400\r\n" + bytes(1024) + b"\r\n"), whole]
    assert fetch(checkpoint(server.url), tmp_path, policy=DownloadPolicy(limit=1 << 20)).read_bytes() == BODY


def arrives(rate: float, size: int, *, breaks: float = 0.0, pause: float = 0.0) -> float:
    """How long a file takes that comes at a rate, of whose connections each brings `breaks` bytes at the most."""
    clock = Clock()
    limits = DownloadPolicy(clock=clock)
    pace = TransferLimits("https://example.com/net.h5", limits, 0)
    got, failures = 0.0, 0
    while got < size:
        pace.attempt()
        end = min(size, got + breaks) if breaks else size
        try:
            while got < end:
                clock.now += 1.0
                got += rate
                pace.received(int(rate))
        except RetryableError:
            pass
        if got < size:
            failures = 0 if pace.grew(int(got)) else failures + 1
            if failures >= limits.attempts:
                raise FetchError("given up")
            clock.now += pause
    return clock.now


@pytest.mark.parametrize(
    ("rate", "size", "more"),
    [
        (200_000, 500_000_000, {}),
        (30_000, 600_000_000, {}),
        (100_000, 600_000_000, {"breaks": 1_000_000, "pause": 1.5}),
        (20_000, 100_000_000, {"breaks": 200_000, "pause": 5.0}),
    ],
)
def test_an_honest_slow_link_is_served_within_the_defaults(rate: float, size: int, more: dict[str, float]) -> None:
    assert arrives(rate, size, **more) <= DownloadPolicy().seconds


@pytest.mark.parametrize(
    ("rate", "more"), [(1, {}), (9_000, {}), (20_000, {}), (1_000_000, {"breaks": 1, "pause": 120.0})]
)
def test_a_link_below_the_defaults_is_given_up(rate: float, more: dict[str, float]) -> None:
    with pytest.raises(FetchError):
        arrives(rate, 600_000_000, **more)


def test_the_whole_time_counts_over_all_attempts(clock: Clock) -> None:
    pace = TransferLimits("https://example.com/net.h5", policy(clock, seconds=100.0), 0)
    for _ in range(10):
        pace.attempt()
        pace.received(10_000)
        clock.now += 10.0
    with pytest.raises(FetchError, match="within 100 seconds"):
        pace.attempt()


@pytest.mark.parametrize("checksum", [None, Checksum("sha256", hashlib.sha256(BODY).hexdigest())])
def test_a_file_at_full_speed_is_not_slowed_down(server: Server, tmp_path: Path, checksum: Checksum | None) -> None:
    assert fetch(checkpoint(server.url, checksum), tmp_path).read_bytes() == BODY
    assert len(server.requests) == 1
