"""The life of a server: real processes, real signals, real ports."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.variations import mostly_in_ci, with_two_workers_too

SERVICE = "glimpse.v1.ImageClassifier"
BUNDLE = Path(__file__).parents[2] / "models" / "bundles" / "se_resnet20_cifar10"
Start = Callable[..., RunningServer]
Picture = Callable[[int], pb.Image]
Status = health_pb2.HealthCheckResponse.ServingStatus


@with_two_workers_too
def test_readiness_ends_with_the_drain_and_liveness_with_the_process(start_server: Start) -> None:
    running = start_server("--drain-announce-seconds=1")
    watched: dict[str, list[str]] = {"": [], SERVICE: []}
    with grpc.insecure_channel(running.target) as channel:
        health = HealthStub(channel)

        def watch(service: str) -> None:
            try:
                for response in health.Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True):
                    watched[service].append(Status.Name(response.status))
            except grpc.RpcError:
                pass  # the server has gone

        watchers = [threading.Thread(target=watch, args=(service,)) for service in watched]
        for watcher in watchers:
            watcher.start()
        running.wait_for("serving")
        for service in watched:
            check = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
        running.terminate()
        assert running.exit_code() == 0
        for watcher in watchers:
            watcher.join(TIMEOUT)
    # The empty name is liveness: a server that drains is alive until it ends.
    assert watched == {"": ["NOT_SERVING", "SERVING"], SERVICE: ["NOT_SERVING", "SERVING", "NOT_SERVING"]}


def test_health_of_an_unknown_service_is_not_found(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
        HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@with_two_workers_too
def test_until_it_is_ready_a_call_is_told_to_come_back(start_server: Start, picture: Picture) -> None:
    running = start_server()
    with grpc.insecure_channel(running.target) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            ImageClassifierStub(channel).Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert rich_status(refused.value)[1].reason == "NOT_READY"
        assert isinstance(refused.value, grpc.Call)
        assert "grpc-retry-pushback-ms" in {key for key, _ in refused.value.trailing_metadata()}


@pytest.mark.parametrize("number", mostly_in_ci([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
def test_a_signal_finishes_what_is_in_flight_and_exits_0(
    start_server: Start, picture: Picture, number: signal.Signals, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    running = start_server(environment={"HANG_WHILE": str(hang)}, module="tests.server.hanging")
    running.wait_for("serving")
    hang.touch()
    images = [picture(seed) for seed in range(64)]
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        calls = [stub.Classify.future(pb.ClassifyRequest(images=images), timeout=TIMEOUT) for _ in range(3)]
        while metrics_of(running)["glimpse_images_in_flight"] < 3 * 64:
            threading.Event().wait(0.01)
        running.terminate(number)
        assert running.wait_for("draining")["in_flight"] == 3 * 64
        hang.unlink()
        for call in calls:
            assert len(call.result().results) == 64
        assert running.exit_code() == 0
    assert running.wait_for("stopped")["in_flight"] == 0


@with_two_workers_too
def test_while_draining_is_announced_the_server_goes_on_serving(start_server: Start, picture: Picture) -> None:
    running = start_server("--drain-announce-seconds=2")
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        running.terminate()
        running.wait_for("draining")
        answer = ImageClassifierStub(channel).Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
        assert answer.results[0].predictions
    assert running.exit_code() == 0


@with_two_workers_too
def test_an_open_stream_is_answered_and_then_told_that_the_server_drains(start_server: Start, picture: Picture) -> None:
    running = start_server()
    running.wait_for("serving")
    ended = threading.Event()

    def pieces() -> Iterator[pb.ClassifyStreamRequest]:
        for i in range(20):
            yield pb.ClassifyStreamRequest(id=str(i), request=pb.ClassifyRequest(images=[picture(1)]))
        ended.wait(TIMEOUT)

    with grpc.insecure_channel(running.target) as channel:
        call = ImageClassifierStub(channel).ClassifyStream(pieces(), timeout=TIMEOUT)
        answered = {next(call).id for _ in range(20)}
        running.terminate()
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        ended.set()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert rich_status(refused.value)[1].reason == "DRAINING"
    assert len(answered) == 20
    assert running.exit_code() == 0


@with_two_workers_too
def test_a_stream_answered_to_its_end_ends_well_though_the_server_drains(start_server: Start, picture: Picture) -> None:
    running = start_server("--drain-announce-seconds=0.5")
    running.wait_for("serving")
    images = [picture(seed) for seed in range(64)]

    def pieces() -> Iterator[pb.ClassifyStreamRequest]:
        for i in range(3):
            yield pb.ClassifyStreamRequest(id=str(i), request=pb.ClassifyRequest(images=images))

    with grpc.insecure_channel(running.target) as channel:
        call = ImageClassifierStub(channel).ClassifyStream(pieces(), timeout=TIMEOUT)
        first = next(call)
        running.terminate()
        assert len([first, *call]) == 3
        assert call.code() is grpc.StatusCode.OK
    assert running.exit_code() == 0


def test_a_server_that_never_served_has_nothing_to_announce(start_server: Start) -> None:
    running = start_server("--weights=nowhere", "--drain-announce-seconds=600")
    assert running.exit_code() == 4


def test_decoders_that_do_not_end_do_not_hold_the_exit(start_server: Start, picture: Picture, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    hang.touch()
    running = start_server(
        "--drain-seconds=0",
        "--decode-threads=2",
        environment={"HANG_DECODERS_WHILE": str(hang)},
        module="tests.server.hanging",
    )
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        request = pb.ClassifyRequest(images=[picture(seed) for seed in range(8)])
        call = ImageClassifierStub(channel).Classify.future(request, timeout=2 * TIMEOUT)
        while [line["event"] for line in running.log].count("decoder hangs") < 2:
            assert not call.done()
            threading.Event().wait(0.01)
        running.terminate()
        assert running.exit_code() == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    # Both were in the middle of an image to the end; the six that waited for them were dropped.
    assert running.wait_for("stopped")["in_flight"] == 2
    assert [line["event"] for line in running.log].count("decoder hangs") == 2


def test_a_device_that_does_not_answer_does_not_hold_the_exit(
    start_server: Start, picture: Picture, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    running = start_server("--drain-seconds=0", environment={"HANG_WHILE": str(hang)}, module="tests.server.hanging")
    running.wait_for("serving")
    hang.touch()
    with grpc.insecure_channel(running.target) as channel:
        request = pb.ClassifyRequest(images=[picture(1)])
        call = ImageClassifierStub(channel).Classify.future(request, timeout=2 * TIMEOUT)
        running.wait_for("runtime hangs")
        running.terminate()
        assert running.exit_code() == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_told_with_an_exit_code_of_its_own(start_server: Start, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = start_server(f"{flag}={taken.getsockname()[1]}")
        assert running.exit_code() == 3
    assert "Cannot listen on" in running.wait_for("cannot start")["detail"]
    assert [line["event"] for line in running.log] == ["starting", "settings", "cannot start"]


@pytest.mark.parametrize("arguments", [(), ("--no-serve-metrics",)])
def test_an_address_of_another_machine_is_told_as_that(start_server: Start, arguments: tuple[str, ...]) -> None:
    running = start_server("--host=192.0.2.1", *arguments)  # reserved for documentation (RFC 5737)
    assert running.exit_code() == 3
    detail = running.wait_for("cannot start")["detail"]
    assert detail.startswith("Cannot listen on 192.0.2.1:")
    assert "GLIMPSE_HOST to an address of this machine" in detail
    assert "GRPC_VERBOSITY" not in detail


def test_weights_that_do_not_exist_are_told_with_an_exit_code_of_their_own(start_server: Start) -> None:
    running = start_server("--weights=nowhere")
    assert running.exit_code() == 4
    assert "cifar10" in running.wait_for("cannot start")["detail"]
    assert [line["event"] for line in running.log][-2:] == ["listening", "cannot start"]


def test_weights_of_another_architecture_are_refused(start_server: Start) -> None:
    running = start_server("--model=resnet20", f"--weights={BUNDLE}")
    assert running.exit_code() == 4
    assert "holds weights of se_resnet20" in running.wait_for("cannot start")["detail"]


def test_a_bundle_of_ones_own_is_served_by_its_path_alone(
    start_server: Start, picture: Picture, tmp_path: Path
) -> None:
    bundle = tmp_path / "mine"
    shutil.copytree(BUNDLE, bundle)
    description = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**description, "name": "mine", "version": "7"}))
    running = start_server(f"--weights={bundle}")
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        answer = ImageClassifierStub(channel).Classify(pb.ClassifyRequest(images=[picture(1)]), timeout=TIMEOUT)
    assert (answer.model.name, answer.model.version) == ("mine", "7")


def test_settings_that_cannot_be_are_told_with_an_exit_code_of_their_own(start_server: Start) -> None:
    running = start_server(environment={"GLIMPSE_MAX_BATCH_SIZE": "many"})
    assert running.exit_code() == 2
    (told,) = running.log
    assert (told["event"], told["level"]) == ("settings cannot be used", "error")
    assert "max_batch_size" in told["detail"]
    assert "'many'" in told["detail"]
    assert running.stray == []


def test_the_settings_in_force_are_shown_at_the_start(start_server: Start) -> None:
    running = start_server("--weights=nowhere", environment={"GLIMPSE_MAX_BATCH_SIZE": "7"})
    shown = running.wait_for("settings")
    assert (shown["max_batch_size"], shown["weights"]) == (7, "nowhere")
