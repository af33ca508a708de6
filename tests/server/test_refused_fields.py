"""Every refusal names what is wrong as the caller wrote it, whichever way the request came."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2

from glimpse.server.fields import CONTRACT, Field
from glimpse.server.grpc import repository_servicer, servicer
from glimpse.server.http import openapi
from glimpse.server.http.classify import Classify
from glimpse.server.http.v1 import V1
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.open_inference import open_inference_pb2 as oip
from glimpse.server.open_inference import servicer as open_inference
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.http.asking import (
    MODEL,
    V2,
    V2_PIXELS,
    Answer,
    ask,
    binary,
    form,
    inference,
    instances,
    picture,
    port_of,
    post,
)
from tests.server.open_inference.caller import OpenInferenceCaller, photos, typed
from tests.server.rig import Rig

Refused = tuple[str, str]  # reason and field


class WithoutNovelty(Rig):
    """A server whose model has no threshold of novelty."""

    def _load(self, *arguments: Any, **more: Any) -> LoadedModel:
        loaded = super()._load(*arguments, **more)
        return replace(loaded, bundle=replace(loaded.bundle, novelty=None))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        made = WithoutNovelty(patch, "--http-port=0", "--allow-geometries=pad", "--feedback=*", "--no-flood-guard")
        made.network.let()
        yield made
        made.close()


@pytest.fixture(scope="module")
def channel(rig: Rig) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(rig.target) as made:
        yield made


def by_grpc(call: Callable[[], object]) -> Refused:
    """How a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    status, info = rich_status(refused.value)
    fault = error_details_pb2.BadRequest()
    return info.reason, fault.field_violations[0].field if status.details[1].Unpack(fault) else ""


def by_http(answer: Answer) -> Refused:
    """How a request is refused."""
    return answer.reason, answer.json.get("field", "")


@dataclass(frozen=True)
class Sent:
    """What a request of any transport says."""

    files: Sequence[bytes] = dataclasses.field(default_factory=lambda: (picture(),))
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""
    version: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """All but the files, as a query or a form has it."""
        named = {name: value for name in ("model", "version") if (value := getattr(self, name))}
        return {name: ",".join(v) if isinstance(v, list) else str(v) for name, v in self.options.items()} | named

    @property
    def parameters(self) -> dict[str, Any]:
        """The options, as JSON has them."""
        return {"parameters": self.options} if self.options else {}

    def path(self, protocol: str, ending: str) -> str:
        """The path of a method of the model."""
        named = f"/versions/{self.version}" if self.version else ""
        return f"/{protocol}/models/{self.model or MODEL}{named}{ending}"


def contract(_: int, channel: grpc.Channel, sent: Sent) -> Refused:
    """`Classify` of glimpse.v1."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=each) for each in sent.files])
    if sent.model or sent.version:
        request.model.CopyFrom(pb.ModelSelector(name=sent.model, version=sent.version))
    for name, value in sent.options.items():
        of = request.options.classes if name in {"allow", "deny"} else request.options
        if isinstance(value, list):
            getattr(of, name).extend(value)
        else:
            setattr(of, name, value)
    return by_grpc(lambda: ImageClassifierStub(channel).Classify(request, timeout=TIMEOUT))


def query(port: int, _: grpc.Channel, sent: Sent) -> Refused:
    """`/classify` with options in the query."""
    body, headers = form(*(("image", each, "a.png") for each in sent.files))
    return by_http(ask(port, f"/classify?{urlencode(sent.texts).replace('True', 'true')}", body, headers))


def fields(port: int, _: grpc.Channel, sent: Sent) -> Refused:
    """`/classify` with options in the form."""
    texts = [(name, value.replace("True", "true").encode(), "") for name, value in sent.texts.items()]
    body, headers = form(*texts, *(("image", each, "a.png") for each in sent.files))
    return by_http(ask(port, "/classify", body, headers))


def version_1(port: int, _: grpc.Channel, sent: Sent) -> Refused:
    """`:predict` of version 1."""
    return by_http(post(port, sent.path("v1", ":predict"), instances(*sent.files, **sent.parameters)))


def version_2(port: int, _: grpc.Channel, sent: Sent) -> Refused:
    """`infer` of version 2, all in JSON."""
    return by_http(post(port, sent.path("v2", "/infer"), inference(*sent.files, **sent.parameters)))


def version_2_binary(port: int, _: grpc.Channel, sent: Sent) -> Refused:
    """`infer` of version 2 with a binary tensor."""
    body, headers = binary(*sent.files, **sent.parameters)
    return by_http(ask(port, sent.path("v2", "/infer"), body, headers))


def model_infer(channel: grpc.Channel, request: oip.ModelInferRequest, sent: Sent) -> Refused:
    """`ModelInfer` with the options and the model."""
    request.model_name, request.model_version = sent.model or MODEL, sent.version
    kinds = {int: "int64_param", float: "double_param", str: "string_param", bool: "bool_param"}
    for name, value in sent.options.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return by_grpc(lambda: OpenInferenceCaller(channel).infer(request))


def raw(_: int, channel: grpc.Channel, sent: Sent) -> Refused:
    """`ModelInfer` with raw contents."""
    return model_infer(channel, photos(*sent.files), sent)


def contents(_: int, channel: grpc.Channel, sent: Sent) -> Refused:
    """`ModelInfer` with typed contents."""
    return model_infer(channel, typed(*sent.files), sent)


# By the way that a request comes: what an option, the images, the second image, the model and its version are called.
WAYS: dict[str, tuple[Callable[[int, grpc.Channel, Sent], Refused], str, str, str, str, str]] = {
    "gRPC": (contract, "options.{}", "images", "", "model.name", "model.version"),
    "query": (query, "{}", "image", "", "model", "version"),
    "form": (fields, "{}", "image", "", "model", "version"),
    "v1": (version_1, "parameters.{}", "instances", "instances[1]", "model", "version"),
    "v2": (version_2, "parameters.{}", "inputs[0].shape", "inputs[0].data[1]", "model", "version"),
    "v2 binary": (version_2_binary, "parameters.{}", "inputs[0].shape", "inputs[0][1]", "model", "version"),
    "ModelInfer raw": (
        raw,
        "parameters['{}']",
        "inputs[0].shape",
        "raw_input_contents[0][1]",
        "model_name",
        "model_version",
    ),
    "ModelInfer": (
        contents,
        "parameters['{}']",
        "inputs[0].shape",
        "inputs[0].contents.bytes_contents[1]",
        "model_name",
        "model_version",
    ),
}
# Every check of an option: the options, the reason, and the option that is to blame.
OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no classes": ({"top_k": 0}, "TOP_K_OUT_OF_RANGE", "top_k"),
    "probability": ({"min_probability": 1.5}, "MIN_PROBABILITY_OUT_OF_RANGE", "min_probability"),
    "geometry": ({"geometry": "crop"}, "GEOMETRY_NOT_ALLOWED", "geometry"),
    "novelty": ({"novelty": True}, "NO_NOVELTY_THRESHOLD", "novelty"),
    "roll up": ({"roll_up": 1.5}, "ROLL_UP_OUT_OF_RANGE", "roll_up"),
    "output": ({"outputs": ["maps"]}, "UNKNOWN_OUTPUT", "outputs"),
    "allowed": ({"allow": ["cat", "unicorn"], "deny": ["griffin"]}, "UNKNOWN_CLASS", "allow"),
    "denied": ({"allow": ["cat"], "deny": ["griffin"]}, "UNKNOWN_CLASS", "deny"),
    "all denied": ({"allow": ["cat"], "deny": ["cat"]}, "UNKNOWN_CLASS", "deny"),
    "known": ({"require_known": True}, "NO_NOVELTY_THRESHOLD", "require_known"),
    "both": ({"require_known": True, "novelty": True}, "NO_NOVELTY_THRESHOLD", "require_known"),
    "method": ({"explain": "gradient"}, "CANNOT_EXPLAIN", "explain"),
    "no maps": ({"explain": "cam"}, "CANNOT_EXPLAIN", "explain"),
    "explained class": ({"explain": "occlusion", "explain_class": "unicorn"}, "UNKNOWN_CLASS", "explain_class"),
}
_OPEN_INFERENCE = ("top_k", "min_probability", "geometry", "novelty")  # the options that it has
OPTION_WAYS = [
    pytest.param(way, check, id=f"{check} by {way}")
    for way in WAYS
    for check, (options, _, _) in OPTIONS.items()
    if WAYS[way][0] in {contract, query, fields, version_1} or options.keys() <= set(_OPEN_INFERENCE)
]


@pytest.mark.parametrize(("way", "check"), OPTION_WAYS)
def test_an_option_is_named_as_its_caller_wrote_it(rig: Rig, channel: grpc.Channel, way: str, check: str) -> None:
    send, pattern, *_ = WAYS[way]
    options, reason, name = OPTIONS[check]
    if send is contract and name in {"allow", "deny"}:
        name = f"classes.{name}"
    assert send(port_of(rig), channel, Sent(options=options)) == (reason, pattern.format(name))


@pytest.mark.parametrize("way", WAYS)
def test_images_and_models_are_named_as_their_caller_wrote_them(rig: Rig, channel: grpc.Channel, way: str) -> None:
    send, _, images, second, model, version = WAYS[way]
    refused, good = partial(send, port_of(rig), channel), picture()
    assert refused(Sent([])) == ("NO_IMAGES", images)
    assert refused(Sent([good] * 65)) == ("TOO_MANY_IMAGES", images)
    assert refused(Sent(model="none")) == ("MODEL_NOT_FOUND", model)
    assert refused(Sent(model=MODEL, version="9")) == ("MODEL_NOT_FOUND", version)
    if second:  # else an image has an error of its own
        assert refused(Sent([good, b"none"])) == ("NOT_AN_IMAGE", second)


@pytest.mark.parametrize("way", ["gRPC", "query", "form", "v1"])
def test_too_many_images_to_be_explained_are_those_that_were_sent(rig: Rig, channel: grpc.Channel, way: str) -> None:
    send, _, images, *_ = WAYS[way]
    sent = Sent([picture()] * 2, {"explain": "occlusion"})
    assert send(port_of(rig), channel, sent) == ("TOO_MANY_IMAGES", images)


def test_a_lone_photo_is_named_by_its_field_and_as_a_body_not_at_all(rig: Rig) -> None:
    body, headers = form(("my photo", b"none", "a.png"))
    assert by_http(ask(port_of(rig), "/classify", body, headers)) == ("NOT_AN_IMAGE", "my photo")
    assert by_http(ask(port_of(rig), "/classify", b"none")) == ("NOT_AN_IMAGE", "")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("top_k=x", "top_k"),
        ("top_k=5x", "top_k"),
        ("top_k=1&min_probability=low", "min_probability"),
        ("roll_up=inf", "roll_up"),
        ("novelty=maybe", "novelty"),
        ("require_known=1", "require_known"),
        ("deny=" + "," * 4096, "deny"),
        ("labels=2", "labels"),
    ],
)
def test_a_text_of_the_wrong_kind_is_named_alone(rig: Rig, asked: str, field: str) -> None:
    answer = ask(port_of(rig), f"/classify?{asked}", picture())
    assert by_http(answer) == ("MALFORMED_MESSAGE", field)
    assert field in answer.json["error"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"outputs": [{"name": "probabilities"}, {"name": "softmax"}]}, "outputs[1].name"),
        (
            {"outputs": [{"name": "probabilities"}, {"name": "logits", "parameters": {"binary_data": 1}}]},
            "outputs[1].parameters.binary_data",
        ),
        (
            {"outputs": [{"name": "probabilities", "parameters": {"classification": "3"}}]},
            "outputs[0].parameters.classification",
        ),
        (
            {"outputs": [{"name": "probabilities", "parameters": {"shared_memory_region": "mine"}}]},
            "outputs[0].parameters.shared_memory_region",
        ),
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"parameters": {"top_k": "3"}}, "parameters.top_k"),
        ({"parameters": {"min_probability": "low"}}, "parameters.min_probability"),
        ({"parameters": {"geometry": 1}}, "parameters.geometry"),
        ({"parameters": {"novelty": "yes"}}, "parameters.novelty"),
        ({"parameters": {"priority": -1}}, "parameters.priority"),
        ({"parameters": {"timeout": 0.5}}, "parameters.timeout"),
        ({"parameters": []}, "parameters"),
        ({"id": 1}, "id"),
        ({"id": "x" * 5000}, "id"),
        ({"inputs": []}, "inputs"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_version_2_names_what_is_in_its_json(rig: Rig, changed: dict[str, Any], field: str) -> None:
    content = {**inference(picture()), **changed}
    assert by_http(post(port_of(rig), V2, content))[1] == field


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"shape": [1, 0, 32, 3], "data": []}, "inputs[0].shape"),
        ({"shape": [1, 8192, 8192, 1], "data": []}, "inputs[0].data"),
        ({"parameters": {"shared_memory_region": "mine"}, "data": []}, "inputs[0].parameters.shared_memory_region"),
        ({"data": [256] * 3072}, "inputs[0].data"),
        ({"datatype": "FP32", "data": []}, "inputs[0].datatype"),
        ({"parameters": {"binary_data_size": "x"}}, "inputs[0].parameters.binary_data_size"),
        ({"parameters": {"binary_data_size": 9}}, "inputs[0].parameters.binary_data_size"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_version_2_names_what_is_in_a_tensor_of_pixels(rig: Rig, changed: dict[str, Any], field: str) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], **changed}
    answer = post(port_of(rig), V2_PIXELS, {"inputs": [tensor]})
    assert by_http(answer)[1] == field


def test_a_header_that_is_wrong_is_named(rig: Rig) -> None:
    wrong = {
        "inference-header-content-length": "x",
        "glimpse-timeout": "soon",
        "content-encoding": "gzip",
        "content-type": "multipart/form-data",
    }
    for name, value in wrong.items():
        where = V2 if name.startswith("inference") else "/classify"
        assert by_http(ask(port_of(rig), where, b"x", {name: value}))[1] == name


@pytest.mark.parametrize(
    "where",
    [
        "/describe?model={}&version={}",
        "/v1/models/{}/versions/{}",
        *(f"/v2/models/{{}}/versions/{{}}{each}" for each in ("", "/ready", "/config", "/stats")),
    ],
)
def test_what_tells_of_models_names_the_model_and_the_version(rig: Rig, where: str) -> None:
    for named, field in ((("none", "1"), "model"), ((MODEL, "9"), "version")):
        assert by_http(ask(port_of(rig), where.format(*named))) == ("MODEL_NOT_FOUND", field)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_of_the_open_inference_protocol_they_are_name_and_version(channel: grpc.Channel, method: str) -> None:
    make = getattr(oip, f"{method}Request")
    for named, field in ((make(name="none"), "name"), (make(name=MODEL, version="9"), "version")):
        assert by_grpc(partial(OpenInferenceCaller(channel).call, method, named)) == ("MODEL_NOT_FOUND", field)


def test_a_model_to_describe_is_named_as_the_contract_has_it(channel: grpc.Channel) -> None:
    for selector, field in (({"name": "none"}, "model.name"), ({"version": "9"}, "model.version")):
        request = pb.DescribeModelRequest(model=pb.ModelSelector(**selector))
        refused = by_grpc(partial(ImageClassifierStub(channel).DescribeModel, request))
        assert refused == ("MODEL_NOT_FOUND", field)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "images"),
        ({"images": []}, "images"),
        ({"images": [{"request_id": "a", "true_class": "cat"}] * 65}, "images"),
        ({"images": [{"request_id": "a", "true_class": 1}]}, "images[0].true_class"),
        ({"images": [{"request_id": "a", "true_class": "cat", "image": -1}]}, "images[0].image"),
        ({"images": [{"request_id": "a", "true_class": "cat", "image": 0, "new_class": 1}]}, "images[0].new_class"),
        ({"images": [{"request_id": "a", "true_class": "cat", "label": "cat"}]}, "images[0].label"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_feedback_names_what_is_in_its_json(rig: Rig, content: dict[str, Any], field: str) -> None:
    assert by_http(post(port_of(rig), "/feedback", content))[1] == field


@pytest.mark.parametrize("images", [0, 65])
def test_feedback_names_the_images_of_its_message(channel: grpc.Channel, images: int) -> None:
    request = pb.FeedbackRequest(images=[pb.TrueClass(request_id="a")] * images)
    assert by_grpc(lambda: ImageClassifierStub(channel).Feedback(request))[1] == "images"


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (pb.DESCRIPTOR, {**servicer.names(), **repository_servicer.names()}),
        (oip.DESCRIPTOR, open_inference.names()),
    ],
    ids=["glimpse.v1", "Open Inference Protocol"],
)
def test_every_name_is_that_of_a_field_of_the_method_s_message(
    file: FileDescriptor, names: Mapping[str, Mapping[str, str]]
) -> None:
    assert set(CONTRACT) == set(Field)
    for method, table in names.items():
        service, _, name = method.rpartition("/")
        message: Any = file.services_by_name[service.rpartition(".")[2]].methods_by_name[name].input_type
        if name == "ClassifyStream":
            message = pb.ClassifyRequest.DESCRIPTOR
        for path in table.values():
            of = message
            for part in re.sub(r"\[.*?\]", "", path).split("."):
                assert part in of.fields_by_name, (method, path)
                of = of.fields_by_name[part].message_type


def test_every_name_over_http_is_in_the_document_of_the_api() -> None:
    paths = "/classify", "/v1/models/{model}:predict"
    document = openapi.document(tokens=False, served=paths)
    query = {each["name"] for each in document["paths"][paths[0]]["post"]["parameters"]}
    of_body = document["components"]["schemas"]
    parameters = {f"parameters.{each}" for each in of_body["Options"]["properties"]}
    in_path = {each["name"] for each in document["paths"][paths[1]]["post"]["parameters"]}
    assert set(Classify.names.values()) <= query | {"image"}
    assert set(V1.names.values()) <= in_path | {"instances", "version"} | parameters
    assert set(Classify.names) == set(V1.names) == set(Field)
