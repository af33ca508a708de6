"""The runtimes for KServe: in agreement with the server, with KServe's own rules, and valid by its schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from glimpse.client.channel import SERVICE
from glimpse.server.settings import Settings, unknown_variables
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import CACHE, RunningServer
from tests.deploy.tools import DEPLOY, ROOT, parse, run, tool
from tests.server.http.asking import ask, inference, instances, post

pytestmark = pytest.mark.slow

FOLDER = DEPLOY / "kserve"
RUNTIMES = ["runtime.yaml", "runtime-knative.yaml"]
# KServe's own, which are not ours to keep: config/crd/full of its repository.
SCHEMAS = ROOT / ".cache" / "kserve"
_VALIDATE = """
import json, sys, yaml
import jsonschema

def strict(schema):
    if isinstance(schema, dict):
        closed = schema.get("type") == "object" and "properties" in schema
        if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for each in list(schema.values()):
            strict(each)
    elif isinstance(schema, list):
        for each in schema:
            strict(each)

definition = yaml.safe_load(open(sys.argv[1]))
document = yaml.safe_load(sys.stdin)
version = document["apiVersion"].rpartition("/")[2]
(schema,) = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == version]
strict(schema)
schema["properties"]["metadata"] = {"type": "object"}
json.dump([error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)], sys.stdout)
"""


def read(name: str) -> dict[str, Any]:
    """One of the manifests."""
    (found,) = parse((FOLDER / name).read_text("utf-8"))
    return found


def container(name: str) -> dict[str, Any]:
    """The container of a runtime, by the name that KServe looks for."""
    (found,) = read(name)["spec"]["containers"]
    assert found["name"] == "kserve-container"
    made: dict[str, Any] = found
    return made


def variables(name: str) -> dict[str, str]:
    """The server's environment, where it is plain text."""
    return {each["name"]: each.get("value", "") for each in container(name)["env"]}


def wrong_with(text: str, kind: str) -> list[str]:
    """What KServe's schema finds wrong with a manifest."""
    path = SCHEMAS / f"{kind}.yaml"
    if not path.exists():
        pytest.skip(
            f"KServe's schemas are not at hand: put config/crd/full/serving.kserve.io_{kind}.yaml there: {path}"
        )
    python = Path(tool("kubernetes-validate")).parent / "python"
    ended = run(str(python), "-c", _VALIDATE, str(path), stdin=text)
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_is_valid_by_kserves_schema(name: str) -> None:
    assert wrong_with((FOLDER / name).read_text("utf-8"), "clusterservingruntimes") == []


def test_the_example_is_valid_by_kserves_schema() -> None:
    assert wrong_with((FOLDER / "inference-service.yaml").read_text("utf-8"), "inferenceservices") == []


def test_the_schema_sees_a_misspelt_field() -> None:
    text = (FOLDER / "runtime.yaml").read_text("utf-8").replace("readinessProbe", "readynessProbe")
    assert wrong_with(text, "clusterservingruntimes")


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_variable_of_a_runtime_is_a_setting(name: str) -> None:
    assert unknown_variables(dict.fromkeys(variables(name), "")) == []


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_asks_the_server_where_it_listens(name: str) -> None:
    port = int(variables(name)["GLIMPSE_PORT"])
    asked = container(name)
    assert asked["ports"][0]["containerPort"] == port
    assert asked["readinessProbe"]["grpc"] == {"port": port, "service": SERVICE}
    assert asked["livenessProbe"]["grpc"] == {"port": port, "service": ""}
    metrics = str(Settings.model_fields["metrics_port"].default)
    assert read(name)["spec"]["annotations"]["prometheus.kserve.io/port"] == metrics


def test_raw_mode_has_grpc_first_and_http_beside_it() -> None:
    ports = {each["name"]: each["containerPort"] for each in container("runtime.yaml")["ports"]}
    assert list(ports) == ["grpc-port", "http"], "Istio wants a name that begins with grpc"
    assert ports["http"] == int(variables("runtime.yaml")["GLIMPSE_HTTP_PORT"])
    assert read("runtime.yaml")["spec"]["protocolVersions"] == ["grpc-v2", "v2", "v1"]


def test_knative_has_one_port_by_the_name_that_it_wants() -> None:
    assert [each["name"] for each in container("runtime-knative.yaml")["ports"]] == ["h2c"]
    assert "GLIMPSE_HTTP_PORT" not in variables("runtime-knative.yaml")
    assert read("runtime-knative.yaml")["spec"]["protocolVersions"] == ["grpc-v2"]
    assert not [each for each in container("runtime-knative.yaml")["env"] if "valueFrom" in each]


@pytest.mark.parametrize("name", RUNTIMES)
def test_models_are_read_where_kserve_puts_them_and_nothing_is_written_there(name: str) -> None:
    chosen = variables(name)
    assert (chosen["GLIMPSE_WEIGHTS"], chosen["GLIMPSE_MODEL_ALIASES"]) == ("/mnt/models", "{{.Name}}")
    written = {each["mountPath"] for each in container(name)["volumeMounts"]}
    assert written == {"/tmp", chosen["GLIMPSE_CACHE"]}  # noqa: S108 - in the container
    assert container(name)["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_drain_ends_within_the_half_minute_that_kserve_gives(name: str) -> None:
    chosen = variables(name)
    assert float(chosen["GLIMPSE_DRAIN_ANNOUNCE_SECONDS"]) + float(chosen["GLIMPSE_DRAIN_SECONDS"]) < 30


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_may_do_no_more_than_it_must(name: str) -> None:
    rules = container(name)["securityContext"]
    assert rules["runAsNonRoot"] is True
    assert rules["allowPrivilegeEscalation"] is False
    assert rules["capabilities"] == {"drop": ["ALL"]}
    assert "@sha256:" in container(name)["image"]


def test_a_container_started_as_kserve_does_answers_by_the_name_of_its_service(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """The model in a folder, the environment of the runtime for raw mode, ports that are free here."""
    (bundle,) = (ROOT / "models" / "bundles").iterdir()
    here = {"GLIMPSE_WEIGHTS": str(bundle), "GLIMPSE_HTTP_PORT": "0", **CACHE}
    chosen = {name: value for name, value in variables("runtime.yaml").items() if value and name != "GLIMPSE_PORT"}
    named = {name: value.replace("{{.Name}}", "flowers") for name, value in chosen.items()}
    running = start_server(environment={**named, **here, "GLIMPSE_DRAIN_ANNOUNCE_SECONDS": "0"})
    running.wait_for("serving")
    port = int(running.http.rpartition(":")[2])
    assert ask(port, "/v2/models/flowers/ready").json == {"name": "flowers", "ready": True}
    answer = post(port, "/v2/models/flowers/infer", inference(cat_photo.read_bytes()))
    assert (answer.status, answer.json["model_name"]) == (200, "flowers")
    assert post(port, "/v1/models/flowers:predict", instances(cat_photo.read_bytes())).status == 200
    assert ask(port, "/").json == {"status": "alive"}, "no page, but what KServe's version 1 asks for"
    with grpc.insecure_channel(running.target) as channel:
        request = pb.ClassifyRequest(
            model=pb.ModelSelector(name="flowers"), images=[pb.Image(encoded=cat_photo.read_bytes())]
        )
        assert ImageClassifierStub(channel).Classify(request, timeout=60).results[0].predictions[0].label == "cat"
