"""What the server and its models say of themselves by the Open Inference Protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2

from glimpse import __version__
from glimpse.server.errors import ModelNotFoundError
from glimpse.server.open_inference import descriptions, faces
from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.servicer import SERVICE
from glimpse.server.registry import ModelState, ModelStatus
from glimpse.server.service import Service
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.server.open_inference.caller import MODEL, PIXELS, OpenInferenceCaller, photos
from tests.server.repositories import add, damage, repository_of, serving_from, wait_for
from tests.server.repository_scene import run, scene
from tests.variations import with_two_workers_too


def test_the_server_lives_is_ready_and_says_what_it_is(caller: OpenInferenceCaller) -> None:
    assert caller.call("ServerLive", pb.ServerLiveRequest()).live
    assert caller.call("ServerReady", pb.ServerReadyRequest()).ready
    told = caller.call("ServerMetadata", pb.ServerMetadataRequest())
    assert (told.name, told.version) == ("glimpse", __version__)
    assert {"classification", "model_configuration", "statistics"} <= set(told.extensions)


@pytest.mark.parametrize("name", [MODEL, PIXELS, ""])
def test_a_model_is_ready_under_each_of_its_names(caller: OpenInferenceCaller, name: str) -> None:
    assert caller.call("ModelReady", pb.ModelReadyRequest(name=name)).ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_a_model_that_does_not_exist_is_not_found(caller: OpenInferenceCaller, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        caller.call(method, getattr(pb, f"{method}Request")(name="nosuch"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert rich_status(refused.value)[1].reason == "MODEL_NOT_FOUND"


def test_metadata_names_tensors_with_their_batch_and_configuration_without(caller: OpenInferenceCaller) -> None:
    """Each with one input and one output: Triton's image clients take no others."""
    expected = {
        MODEL: ("image", "BYTES", [-1, 1], "TYPE_STRING"),
        PIXELS: ("pixels", "UINT8", [-1, 32, 32, 3], "TYPE_UINT8"),
    }
    for name, (tensor, datatype, shape, kind) in expected.items():
        told = caller.call("ModelMetadata", pb.ModelMetadataRequest(name=name))
        (taken,), (returned,) = told.inputs, told.outputs
        assert (told.name, len(told.versions)) == (name, 1)
        assert (taken.name, taken.datatype, list(taken.shape)) == (tensor, datatype, shape)
        assert (returned.name, returned.datatype, list(returned.shape)) == ("probabilities", "FP32", [-1, 10])
        config = caller.call("ModelConfig", pb.ModelConfigRequest(name=name)).config
        (taken,), (returned,) = config.input, config.output
        assert (taken.name, list(taken.dims)) == (tensor, shape[1:])
        assert taken.data_type == pb.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name[kind].number
        assert (returned.name, list(returned.dims)) == ("probabilities", [10])
        assert config.max_batch_size == 64
        assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


def test_the_index_has_each_model_under_both_names(caller: OpenInferenceCaller) -> None:
    for ready in (True, False):
        models = caller.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=ready)).models
        assert [(each.name, each.state) for each in models] == [(MODEL, "READY"), (PIXELS, "READY")]


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_nobody_may_load_models_unless_the_server_names_them(caller: OpenInferenceCaller, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        caller.call(method, getattr(pb, f"{method}Request")(model_name=MODEL))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert rich_status(refused.value)[1].reason == "NOT_PERMITTED"


@pytest.mark.parametrize("ready", [True, False])
def test_the_index_shows_what_does_not_answer_to_managers_alone(*, ready: bool) -> None:
    """As `ModelRepositoryService.List`, which refuses others; a reason may name a path of the server."""
    why = "/srv/models/cifar/2: damaged"
    models = (ModelStatus("cifar", "1", ModelState.READY, why), ModelStatus("cifar", "2", ModelState.FAILED, why))

    def index(*, managed: bool) -> set[tuple[str, str, str]]:
        found = descriptions.index(models, ready=ready, managed=managed).models
        return {(each.version, each.state, each.reason) for each in found}

    assert index(managed=False) == {("1", "READY", "")}
    assert index(managed=True) == {("1", "READY", why)} | (set() if ready else {("2", "UNAVAILABLE", why)})


def test_who_may_manage_models_unloads_and_loads_one(
    start_server: Callable[..., RunningServer], file: Callable[[int], bytes], tmp_path: Path
) -> None:
    """Triton's file and KServe's name the model in different fields."""
    add(tmp_path, 1)
    running = serving_from(start_server, tmp_path, GLIMPSE_MODEL_ALIASES="photos=cifar")
    with grpc.insecure_channel(running.target) as channel:
        caller = OpenInferenceCaller(channel)

        def index(*, ready: bool) -> list[str]:
            found = caller.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=ready)).models
            return [f"{each.name} {each.version} {each.state}" for each in found]

        assert index(ready=True) == ["cifar 1 READY", "cifar.pixels 1 READY"]
        caller.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="cifar"))
        assert index(ready=True) == []
        # Unload does not wait for the requests that have begun, nor for the memory.
        with repository_of(running) as models:
            wait_for(models, {"cifar/1": "unloaded"})
        assert index(ready=False) == ["cifar 1 UNAVAILABLE", "cifar.pixels 1 UNAVAILABLE"]
        for name in ("cifar", "cifar.pixels", "photos", "photos.pixels"):
            assert not caller.call("ModelReady", pb.ModelReadyRequest(name=name)).ready, name
        with pytest.raises(grpc.RpcError) as refused:
            caller.infer(photos(file(1), model_name="cifar"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        caller.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(repository_name="cifar"))
        assert caller.call("ModelReady", pb.ModelReadyRequest(name="cifar")).ready
        assert caller.infer(photos(file(1), model_name="cifar")).model_version == "1"


def test_a_model_whose_stable_version_cannot_be_loaded_is_not_ready(tmp_path: Path) -> None:
    """That is no error of who asks whether it is; another version of it is, where the server takes requests."""
    damage(add(tmp_path, 1))
    add(tmp_path, 2)
    (tmp_path / "cifar" / "aliases.toml").write_text("stable = 1\n")

    async def do() -> None:
        async with scene(tmp_path) as made:
            service: Any = Service.__new__(Service)
            service._registry, service.ready = made.registry, False
            service.serves, service.models_ready = True, made.repository.names()
            asked = {version: faces.is_ready(service, "cifar", version) for version in ("", "stable", "1", "2")}
            assert asked == {"": False, "stable": False, "1": False, "2": True}
            with pytest.raises(ModelNotFoundError):
                faces.is_ready(service, "cifra", "")

    run(do)


@with_two_workers_too
def test_statistics_count_what_was_asked_by_any_protocol(
    start_server: Callable[..., RunningServer], file: Callable[[int], bytes]
) -> None:
    running = start_server()
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        caller = OpenInferenceCaller(channel)
        caller.infer(photos(file(1), file(2), file(3)))
        caller.infer(photos(file(1)))
        for bad in (photos(file(1), b"no image"), photos(file(1), shape=[9])):
            with pytest.raises(grpc.RpcError):
                caller.infer(bad)
        for name in (MODEL, ""):
            (told,) = caller.call("ModelStatistics", pb.ModelStatisticsRequest(name=name)).model_stats
            stats = told.inference_stats
            assert told.name == MODEL
            assert (stats.success.count, stats.fail.count) == (2, 1), "what cannot be read reaches no model"
            assert told.inference_count == stats.queue.count == stats.compute_infer.count == 4
            assert 0 < stats.compute_infer.ns < stats.success.ns * 3
            assert told.execution_count == sum(each.compute_infer.count for each in told.batch_stats) >= 2
            assert sum(each.batch_size * each.compute_infer.count for each in told.batch_stats) >= 4
            assert told.last_inference > 1.7e12
    labels = f'grpc_code="OK",grpc_method="ModelInfer",grpc_service="{SERVICE}",grpc_type="unary"'
    assert metrics_of(running)[f"grpc_server_handled_total{{{labels}}}"] == 2


def test_a_client_made_from_reflection_knows_the_protocol(caller: OpenInferenceCaller, server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such"),
        ]
        listing, files, missing = reflect(iter(asked), timeout=TIMEOUT)
    assert SERVICE in {service.name for service in listing.list_services_response.service}
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    pool = descriptor_pool.DescriptorPool()
    for data in files.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    method = pool.FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
    request: Any = message_factory.GetMessageClass(method.input_type)
    assert request(model_name="x").model_name == "x"


def test_health_checks_know_the_service(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        answer = HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_messages_are_in_no_pool_that_clients_share() -> None:
    """Else no client of the protocol could be imported into the process: each brings a file of the same names."""
    code = (
        "from google.protobuf import descriptor_pool\n"
        "import glimpse.client, glimpse.server.open_inference.servicer\n"
        "try: descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError: print('free')\n"
    )
    environment = {"PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout == "free\n"
