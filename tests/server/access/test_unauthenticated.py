"""Calls that anybody may make take nothing from those who are known, and one stranger not everything from others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from hyperframe.frame import SettingsFrame

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import IN, Inside, bearer, channel, classify, entry, healthy, told, until
from tests.server.conftest import TIMEOUT
from tests.server.hostile.wire import CHECK, CLASSIFY, DESCRIBE, REFLECTION, WATCH, Wire, call, message

Start = Callable[..., Inside]
_UNKNOWN = "/nobody.knows/This"
_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def neighbour_of(running: Inside) -> str:
    """The same server by the other family of addresses."""
    return f"[::1]:{running.bound.grpc}"


@contextmanager
def strangers(running: Inside, number: int = 2, *, port: int | None = None) -> Iterator[list[Wire]]:
    """Connections from addresses of their own."""
    with ExitStack() as stack:
        target = f"127.0.0.1:{port or running.bound.grpc}"
        yield [stack.enter_context(Wire(target, source=f"127.0.0.{2 + each}")) for each in range(number)]


def end(refused: Any) -> str:
    """How a call ended that was begun as a future."""
    error = refused.exception()
    assert isinstance(error, grpc.RpcError)
    return told(error)


def say_nothing(running: Inside, wires: list[Wire], path: str, calls: int) -> None:
    """Begin so many calls on each, send no message, and wait until the server has begun them, too."""
    for wire in wires:
        for stream in range(1, 2 * calls, 2):
            wire.send(wire.headers(stream, call(path)))
        assert wire.alive()
    if path != _UNKNOWN:
        until(lambda: begun(running, path) >= calls * len(wires))


def begun(running: Inside, path: str) -> float:
    """Calls of a method that have begun."""
    return sum(
        sample.value
        for metric in running.server._metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "grpc_server_started_total" and sample.labels["grpc_method"] == path.rpartition("/")[2]
    )


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION, DESCRIBE, CLASSIFY, _UNKNOWN])
def test_strangers_who_say_nothing_take_no_turn_of_a_token_holder(inside: Start, tmp_path: Path, path: str) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("alice", "a"))
    running = inside(host="::", tokens=tokens, max_uploads=2, upload_seconds=600.0)
    with strangers(running) as wires, channel(neighbour_of(running)) as alice:
        say_nothing(running, wires, path, 50)
        assert classify(alice, bearer("a")) == IN
        assert healthy(alice)


def test_probes_are_answered_on_their_port_whatever_comes_to_the_main_one(inside: Start) -> None:
    running = inside(host="::", health_port=0)
    with strangers(running, 10) as wires, channel(f"127.0.0.1:{running.bound.health}") as probe:
        say_nothing(running, wires, CHECK, 50)
        probes = running.server._ports._access.probes
        assert [healthy(probe) for _ in range(20)] == [True] * 20
        assert probes.calls.taken == 0


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION, DESCRIBE])
def test_where_nobody_is_asked_they_take_no_turn_either(inside: Start, path: str) -> None:
    running = inside(host="::", max_uploads=2, upload_seconds=600.0)
    with strangers(running) as wires, channel(neighbour_of(running)) as neighbour:
        say_nothing(running, wires, path, 50)
        assert classify(neighbour) == IN
        assert healthy(neighbour)
        with pytest.raises(grpc.RpcError) as described:
            ImageClassifierStub(neighbour).DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
        assert told(described.value) == IN


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION, DESCRIBE])
def test_a_message_that_is_longer_than_any_such_can_be_is_refused(inside: Start, path: str) -> None:
    running = inside()
    with Wire(running.target) as wire:
        # A message that each of the methods could read: a name of 4995 letters, and a selector of unknown fields.
        wire.begin(1, message(b"\x0a\x83\x27" + b"a" * 4995), headers=call(path))
        assert wire.ending(1) == "INVALID_ARGUMENT"
        assert wire.alive()


def test_a_stranger_s_message_has_seconds_and_not_half_a_minute(inside: Start) -> None:
    running = inside(upload_seconds=3600.0)
    with Wire(running.target) as wire:
        for stream, path in ((1, CHECK), (3, WATCH), (5, REFLECTION), (7, DESCRIBE)):
            wire.send(wire.headers(stream, call(path)))
        assert [wire.ending(stream) for stream in (1, 3, 5, 7)] == ["DEADLINE_EXCEEDED"] * 4


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("service", ["", "nobody.knows"])
def test_watches_are_bounded_by_address_and_in_all(inside: Start, service: str, main: bool) -> None:  # noqa: FBT001
    running = inside(host="::", max_connections=10, health_port=0)
    port = running.bound.grpc if main else running.bound.health
    access = running.server._ports._access
    watches = (access.checks if main else access.probes).streams
    asked = message(health_pb2.HealthCheckRequest(service=service).SerializeToString())
    with strangers(running, 2, port=port) as wires, channel(f"[::1]:{port}") as neighbour:
        for number, wire in enumerate(wires):
            for stream in range(1, 25, 2):
                wire.begin(stream, asked, headers=call(WATCH))
            # Ten of twelve stay open.
            assert [wire.ending(stream) for stream in (21, 23)] == ["RESOURCE_EXHAUSTED"] * 2
            until(lambda number=number: watches.taken == 10 * (number + 1))  # type: ignore[misc]
        # All places are taken; who comes gets one nevertheless.
        watch = HealthStub(neighbour).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert next(watch) == _SERVING
        assert healthy(neighbour)
        time.sleep(0.2)  # the neighbour may have its answer a moment before the other has its refusal
        for wire in wires:
            wire.ending(1, ping=True)  # reads what is there
        ends = [wire._statuses.get(stream) for wire in wires for stream in range(1, 21, 2)]
        assert "RESOURCE_EXHAUSTED" in ends
        watch.cancel()
    until(lambda: watches.taken == 0)


def test_a_client_machine_with_hundreds_of_channels_watches_on_each(inside: Start) -> None:
    running = inside()
    with ExitStack() as stack:
        channels = [stack.enter_context(channel(running.target)) for _ in range(200)]
        watches = [HealthStub(each).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT) for each in channels]
        assert [next(watch) for watch in watches] == [_SERVING] * 200
        for watch in watches:
            watch.cancel()


def test_a_watcher_who_takes_no_word_is_cut_off_when_his_place_is_wanted(inside: Start) -> None:
    running = inside(host="::", max_connections=3)
    asked = message(b"")
    with ExitStack() as stack:
        shut = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
        deaf = [
            stack.enter_context(Wire(running.target, settings=shut, source=f"127.0.0.{2 + each}")) for each in range(2)
        ]
        for wire in deaf:
            for stream in (1, 3, 5):
                wire.begin(stream, asked, headers=call(WATCH))
            assert wire.alive()
        watches = running.server._ports._access.checks.streams
        until(lambda: watches.taken == 6)
        with channel(neighbour_of(running)) as neighbour:
            watch = HealthStub(neighbour).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
            assert next(watch) == _SERVING
            assert deaf[0].ending(1) == "closed"
            assert deaf[1].alive()
            watch.cancel()


def test_descriptions_are_so_many_a_second_and_images_are_not_held_up(inside: Start) -> None:
    running = inside(host="::")
    with channel(running.target) as greedy, channel(neighbour_of(running)) as neighbour:
        calls = [
            ImageClassifierStub(greedy).DescribeModel.future(pb.DescribeModelRequest(), timeout=TIMEOUT)
            for _ in range(700)
        ]
        assert classify(neighbour) == IN
        assert classify(greedy) == IN
        ends = Counter[str]()
        for each in calls:
            ends[reason := end(each)] += 1
            if reason == "RATE_LIMITED":
                assert "grpc-retry-pushback-ms" in dict(each.trailing_metadata())
    assert ends.keys() == {IN, "RATE_LIMITED"}, ends
    assert ends[IN] >= 500


def test_who_fails_often_is_slowed_down_and_a_token_holder_beside_is_not(inside: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("alice", "a"))
    running = inside(tokens=tokens)
    with channel(running.target) as caller:
        request = pb.ClassifyRequest(images=[pb.Image(encoded=b"x")])
        calls = [
            ImageClassifierStub(caller).Classify.future(request, timeout=TIMEOUT, metadata=bearer("wrong"))
            for _ in range(400)
        ]
        assert classify(caller, bearer("a")) == IN
        ends = Counter(end(each) for each in calls)
        assert ends.keys() == {"TOKEN_REFUSED", "RATE_LIMITED"}, ends
        assert ends["TOKEN_REFUSED"] >= 200
        assert classify(caller, bearer("a")) == IN
