"""What one caller can take of connections, calls and messages, and that the others are answered meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from hyperframe.frame import GoAwayFrame, PingFrame, SettingsFrame

from tests.server.access.inside import IN, Inside, bearer, channel, classify, entry, until
from tests.server.conftest import TIMEOUT
from tests.server.hostile.wire import CHECK, PREFACE, WATCH, Wire, call, message

Start = Callable[..., Inside]


@pytest.fixture
def alice() -> Iterator[Callable[[Inside], str]]:
    """Another caller, who keeps a connection: what she is told."""
    opened: dict[str, grpc.Channel] = {}
    with ExitStack() as closing:

        def ask(running: Inside) -> str:
            if running.target not in opened:
                opened[running.target] = closing.enter_context(channel(running.target))
            return classify(opened[running.target])

        yield ask


def gone(connection: socket.socket) -> bool:
    """Whether the server closes the connection, waiting for it."""
    connection.settimeout(TIMEOUT)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_a_message_that_is_too_long_is_refused(inside: Start, alice: Callable[[Inside], str]) -> None:
    running = inside(max_message_bytes=100_000, max_image_bytes=100_000)
    assert alice(running) == IN
    with channel(running.target) as caller:
        assert classify(caller, size=99_000) == IN
        assert classify(caller, size=101_000) == "RESOURCE_EXHAUSTED"
        assert alice(running) == IN
        assert classify(caller) == IN


def test_metadata_that_is_too_long_is_refused(inside: Start, alice: Callable[[Inside], str]) -> None:
    running = inside(max_metadata_bytes=4000)
    assert alice(running) == IN
    with channel(running.target) as caller:
        assert classify(caller, (("a", "b" * 3000),)) == IN
        assert classify(caller, (("a", "b" * 4000),)) == "RESOURCE_EXHAUSTED"
        assert classify(caller, tuple((f"a{number}", "b" * 100) for number in range(50))) == "RESOURCE_EXHAUSTED"
        assert alice(running) == IN


@pytest.mark.parametrize("words", [b"", PREFACE[:10], PREFACE, b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_who_connects_and_does_not_speak_http2_in_time_is_sent_away(
    inside: Start, alice: Callable[[Inside], str], words: bytes
) -> None:
    running = inside(handshake_seconds=0.5)
    assert alice(running) == IN
    host, _, port = running.target.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as silent:
        silent.sendall(words)
        assert alice(running) == IN
        assert gone(silent)
    assert alice(running) == IN


@pytest.mark.parametrize("path", ["/glimpse.v1.ImageClassifier/Classify", CHECK, WATCH])
def test_a_message_that_comes_byte_by_byte_is_given_up_in_time(
    inside: Start, alice: Callable[[Inside], str], path: str
) -> None:
    running = inside(upload_seconds=1.0)
    assert alice(running) == IN
    with Wire(running.target) as slow:
        slow.send(slow.headers(1, call(path)), slow.data(1, message(b"", length=1000), end=False))
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.05) and slow.send(slow.data(1, b"\0", end=False)):
                pass

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert alice(running) == IN
        try:
            assert slow.ending(1) == "DEADLINE_EXCEEDED"
        finally:
            ended.set()
            dripping.join(TIMEOUT)
    assert alice(running) == IN


def test_who_never_sends_their_messages_cannot_take_the_turns_of_others(inside: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("mallory", "m") + entry("alice", "a"))
    running = inside(tokens=tokens, max_uploads=4, upload_seconds=600.0)
    uploads = running.server._ports._access.uploads
    with structlog.testing.capture_logs() as logged:
        with Wire(running.target) as mallory, channel(running.target) as alice:
            for stream in range(1, 41, 2):
                mallory.send(mallory.headers(stream, call("/glimpse.v1.ImageClassifier/Classify", *bearer("m"))))
            until(lambda: len(uploads._waiting.get("identity:mallory", ())) == 17)
            assert uploads._held["identity:mallory"] == 3
            assert classify(alice, bearer("a")) == IN
        # And when the connection ends, so do they.
        until(lambda: not uploads._held and not uploads._waiting)
        until(lambda: sum((line["event"] == "rpc") + line.get("left_out", 0) for line in logged) == 21)
    assert "INTERNAL" not in {line.get("code") for line in logged}


def test_connections_above_the_limit_are_closed_and_all_others_are_answered(
    inside: Start, alice: Callable[[Inside], str]
) -> None:
    """Connections above the limit are closed, and those before and after are answered."""
    running = inside(max_connections=8)
    assert alice(running) == IN
    host, _, port = running.target.rpartition(":")
    flood = [socket.create_connection((host, int(port)), TIMEOUT) for _ in range(60)]
    try:
        assert alice(running) == IN
        open_ones = []
        for each in flood:
            each.settimeout(TIMEOUT)
            try:
                if each.recv(1):  # the server's first frame: this one was let in
                    open_ones.append(each)
            except ConnectionResetError:
                pass
        assert len(open_ones) == 7
        assert alice(running) == IN
    finally:
        for each in flood:
            each.close()

    def answered() -> bool:
        with channel(running.target) as late:
            return classify(late) == IN

    until(answered)
    assert alice(running) == IN


def test_who_pings_too_often_is_sent_away(inside: Start, alice: Callable[[Inside], str]) -> None:
    running = inside(min_ping_seconds=60.0)
    assert alice(running) == IN
    with Wire(running.target) as nervous:
        for number in range(6):
            nervous.send(PingFrame(0, number.to_bytes(8, "big")))
        farewells = [each for each in nervous.read() if isinstance(each, GoAwayFrame)]
    assert [(each.error_code, each.additional_data) for each in farewells] == [(11, b"too_many_pings")]
    assert alice(running) == IN


def test_who_pings_seldom_enough_stays_though_there_is_no_call(inside: Start) -> None:
    running = inside(min_ping_seconds=0.001)
    with Wire(running.target) as patient:
        for _ in range(6):
            threading.Event().wait(0.05)
            assert patient.alive()


def test_a_connection_that_answers_no_ping_is_closed(inside: Start, alice: Callable[[Inside], str]) -> None:
    running = inside(keepalive_seconds=0.5, keepalive_timeout_seconds=0.5)
    assert alice(running) == IN
    host, _, port = running.target.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as dead:
        dead.sendall(PREFACE + SettingsFrame(0).serialize())
        assert alice(running) == IN
        assert gone(dead)
    assert alice(running) == IN


def test_an_idle_connection_is_told_good_bye_and_an_old_one_too(inside: Start, alice: Callable[[Inside], str]) -> None:
    for limit, word in (("max_connection_idle_seconds", b"idle"), ("max_connection_age_seconds", b"max_age")):
        running = inside(**{limit: 0.5})
        with Wire(running.target) as idle:
            farewell = next(each for each in idle.read() if isinstance(each, GoAwayFrame))
        assert word in farewell.additional_data
    # gRPC's own clients connect anew.
    assert [alice(running) for _ in range(3)] == [IN] * 3


def test_a_server_says_how_many_calls_a_connection_may_have(inside: Start, alice: Callable[[Inside], str]) -> None:
    running = inside(max_calls_per_connection=3)
    assert alice(running) == IN
    with Wire(running.target) as curious:
        settings = next(each for each in curious.read() if isinstance(each, SettingsFrame))
        assert settings.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 3
    with channel(running.target) as busy:
        watches = [HealthStub(busy).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT) for _ in range(3)]
        for watch in watches:
            next(watch)
        # The fourth waits in the client, for a watch to end.
        fourth = HealthStub(busy).Check.future(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert alice(running) == IN
        assert not fourth.done()
        watches[0].cancel()
        assert fourth.result().status == health_pb2.HealthCheckResponse.SERVING
        for watch in watches:
            watch.cancel()
