"""`/v2`: the Open Inference Protocol over HTTP, with Triton's extensions for binary tensors and for classification.

Each model has two names: its own takes image files as BYTES, and `NAME.pixels` takes UINT8 pixels of the network's
size. Both answer the probabilities of all classes, or the most probable ones as `"probability:index:label"`.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from glimpse import __version__
from glimpse.server.domain import Caller, Classification, ModelSelector
from glimpse.server.errors import UnavailableError, shown
from glimpse.server.http import answers, json_body, options, tensors
from glimpse.server.http.endpoint import Asked
from glimpse.server.http.problems import JSON, malformed
from glimpse.server.http.v1 import refuse, selector
from glimpse.server.registry import LoadedModel
from glimpse.server.service import Service

PIXELS = ".pixels"  # behind a model's name: it takes pixels
INPUT, OUTPUT = "image", "probabilities"
_EXTENSIONS = ("binary_tensor_data", "classification", "parameters")
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class _Face:
    """A model by one of its two names."""

    model: LoadedModel
    name: str
    pixels: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.model.bundle.input_shape


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked of the output."""

    top: int | None  # classes, for the classification extension; None: all probabilities
    binary: bool


class V2:
    """Its answers."""

    def __init__(self, service: Service, state: Callable[[], tuple[bool, bool]]) -> None:
        """Have `service` classify; `state` says whether the server is alive, and ready."""
        self._service, self._state = service, state

    async def server(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        """What the server is."""
        return answers.json_response({"name": "glimpse", "version": __version__, "extensions": _EXTENSIONS})

    async def live(self, asked: Asked) -> Response:  # noqa: ARG002 - the same
        """Whether the process is of use: 200, or 503 where only another one can help."""
        return _yes_or_no("live", self._state()[0])

    async def ready(self, asked: Asked) -> Response:  # noqa: ARG002 - the same
        """Whether requests are answered: 200, or 503."""
        return _yes_or_no("ready", self._state()[1])

    async def model_ready(self, asked: Asked) -> Response:
        """Whether a model answers: 200, 503, or 404 where there is none of that name."""
        try:
            face = self._face(asked)
        except UnavailableError:
            return _yes_or_no("ready", yes=False)
        return _yes_or_no("ready", self._state()[1], name=face.name)

    async def model(self, asked: Asked) -> Response:
        """Inputs and outputs of a model."""
        face = self._face(asked)
        name = face.model.identity.name
        versions = [each.identity.version for each in self._service.models() if each.identity.name == name]
        shape = [-1, *face.shape] if face.pixels else [-1]
        return answers.json_response(
            {
                "name": face.name,
                "versions": versions,
                "platform": "glimpse",
                "inputs": [{"name": INPUT, "datatype": _datatype(face), "shape": shape}],
                "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(face.model.bundle.labels)]}],
            }
        )

    async def infer(self, asked: Asked) -> Response:
        """Classify the images of a request; one that cannot be classified fails it."""
        call = asked.call
        content, binary = tensors.split(asked.body, asked.request.headers.get(tensors.HEADER_LENGTH))
        asked.body = b""
        named = selector(asked.request)
        face = self._face(asked)
        request_id = json_body.string(content.get("id", ""), "id")
        parameters = json_body.mapping(content.get("parameters", {}), "parameters")
        wanted = _wanted(content, parameters)
        given = tensors.inputs(content, binary)
        del content, binary
        images = self._images(given, face, asked)
        del given
        chosen = options.of_parameters(parameters, "parameters")
        classes = len(face.model.bundle.labels)
        # k above the number of classes is no error of the extension.
        top = classes if wanted.top is None else min(wanted.top, classes)
        chosen = replace(chosen, top_k=top, min_probability=0.0)
        request = chosen.request(tuple(images), ModelSelector(face.model.identity.name, named.version))
        answer = await self._service.classify(request, call, _caller(asked.caller, parameters, call.begun))
        self._service.replied(answer, call)
        for index, each in enumerate(answer.results):
            refuse(each, f"image {index}", alone=len(answer.results) == 1)
        return _response(request_id, face, answer, wanted, classes)

    def _images(self, given: list[tensors.Input], face: _Face, asked: Asked) -> list[Any]:
        if len(given) != 1 or given[0].name != INPUT or given[0].datatype != _datatype(face):
            received = ", ".join(f"{each.name[:80]} of {each.datatype[:80]}" for each in given[:4]) or "none"
            raise malformed(
                f"{face.name} takes one input, {INPUT} of {_datatype(face)}. Received: {shown(received)}.",
                field="inputs",
            )
        (one,) = given
        number = one.shape[0] if one.shape and (len(one.shape) != 3 or not face.pixels) else 1
        self._service.check_size(asked.call, face.name, number)
        return tensors.pixels(one, *face.shape) if face.pixels else tensors.encoded(tensors.files(one))

    def _face(self, asked: Asked) -> _Face:
        named = selector(asked.request)
        pixels = named.name.endswith(PIXELS)
        model = self._service.model(replace(named, name=named.name.removesuffix(PIXELS)))
        return _Face(model, model.identity.name + (PIXELS if pixels else ""), pixels)


def _wanted(content: dict[str, Any], parameters: dict[str, Any]) -> _Wanted:
    """What is asked of the output.

    Raises:
        InvalidRequestError: expected; there is no such output, or what is asked of it is not of its type.
    """
    binary = _flag(parameters.get("binary_data_output", False), "parameters.binary_data_output")
    outputs = json_body.objects(content.get("outputs", []), "outputs")
    if not outputs:
        return _Wanted(None, binary)
    if len(outputs) != 1 or outputs[0].get("name") != OUTPUT:
        raise malformed(f"The only output is {OUTPUT}.", field="outputs")
    where = "outputs[0].parameters"
    asked = json_body.mapping(outputs[0].get("parameters", {}), where)
    top = asked.get("classification")
    if top is not None and json_body.integer(top, f"{where}.classification") < 1:
        raise malformed(f"{where}.classification must be at least 1. Received: {shown(str(top)[:80])}.", field=where)
    return _Wanted(top, _flag(asked.get("binary_data", binary), f"{where}.binary_data"))


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise malformed(f"{field} must be true or false.", field=field)
    return value


def _caller(caller: Caller, parameters: dict[str, Any], begun: float) -> Caller:
    """The caller, with the deadline that Triton's parameter `timeout` sets, in microseconds.

    Raises:
        InvalidRequestError: expected; it is no number.
    """
    if (timeout := parameters.get("timeout")) is None:
        return caller
    microseconds = json_body.integer(timeout, "parameters.timeout")
    if microseconds <= 0:  # Triton's: none
        return caller
    deadline = begun + min(microseconds, 10**12) / _MICROSECONDS
    return replace(caller, deadline=deadline if caller.deadline is None else min(deadline, caller.deadline))


def _datatype(face: _Face) -> str:
    return "UINT8" if face.pixels else "BYTES"


def _response(request_id: str, face: _Face, answer: Classification, wanted: _Wanted, classes: int) -> Response:
    number = len(answer.results)
    if wanted.top is None:
        values = array("f", bytes(4 * number * classes))
        for row, result in enumerate(answer.results):
            for each in result.predictions:
                values[row * classes + each.index] = each.probability
        datatype, shape = "FP32", [number, classes]
        data: list[Any] = [] if wanted.binary else values.tolist()
        raw = _little_endian(values) if wanted.binary else b""
    else:
        texts = [
            f"{each.probability:.6f}:{each.index}:{each.label}"
            for result in answer.results
            for each in result.predictions
        ]
        datatype, shape = "BYTES", [number, len(texts) // max(1, number)]
        data = [] if wanted.binary else texts
        raw = tensors.joined([each.encode() for each in texts]) if wanted.binary else b""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": datatype, "shape": shape}
    if wanted.binary:
        output["parameters"] = {"binary_data_size": len(raw)}
    else:
        output["data"] = data
    content: dict[str, Any] = {"model_name": face.name, "model_version": answer.model.version, "outputs": [output]}
    if request_id:
        content["id"] = request_id
    if not wanted.binary:
        return answers.json_response(content)
    head = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {tensors.HEADER_LENGTH: str(len(head))}
    return Response(head + raw, 200, headers, "application/octet-stream")


def _little_endian(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _yes_or_no(what: str, yes: bool, *, name: str = "") -> Response:  # noqa: FBT001 - it is what is answered
    content: dict[str, object] = {**({"name": name} if name else {}), what: yes}
    return Response(json.dumps(content), 200 if yes else 503, None, JSON)
