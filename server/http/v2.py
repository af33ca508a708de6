"""`/v2`: the Open Inference Protocol over HTTP, with Triton's extension for binary tensors.

Open Inference Protocol, the REST API; Triton's binary tensor data extension. What a request means, and what is
answered, is the same as over gRPC, and comes from `server/open_inference`. JSON has no bytes, so that image files in it
are in base64; over the binary extension they are as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from glimpse import __version__
from glimpse.server.errors import shown
from glimpse.server.http import answers, json_body
from glimpse.server.http.endpoint import Asked
from glimpse.server.http.problems import JSON, malformed
from glimpse.server.nouns import noun
from glimpse.server.open_inference import descriptions, faces, inference, tensors
from glimpse.server.open_inference.faces import BYTES, Face
from glimpse.server.open_inference.messages import (
    NO_TENSOR,
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
    RequestedOutput,
    TensorMetadata,
)
from glimpse.server.service import Service

HEADER_LENGTH = "inference-header-content-length"
_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)
_DIMENSIONS = 8  # of a shape
_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"


class V2:
    """Its answers."""

    names = inference.names("model", "version", "parameters.{}")

    def __init__(self, service: Service, max_images: int) -> None:
        """Have `service` classify; a request may have `max_images`."""
        self._service, self._max_images = service, max_images

    async def server(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        """What the server is."""
        return answers.json_response({"name": "glimpse", "version": __version__, "extensions": _EXTENSIONS})

    async def live(self, asked: Asked) -> Response:  # noqa: ARG002 - the same
        """Whether the process is of use: 200, or 503 where only another one can help."""
        return _yes_or_no({"live": self._service.alive})

    async def ready(self, asked: Asked) -> Response:  # noqa: ARG002 - the same
        """Whether requests are answered: 200, or 503."""
        return _yes_or_no({"ready": self._service.ready})

    async def model_ready(self, asked: Asked) -> Response:
        """Whether a model answers: 200, 503, or 404 where there is none of that name."""
        name, version = _named(asked.request)
        return _yes_or_no({"name": name, "ready": faces.is_ready(self._service, name, version)})

    async def model(self, asked: Asked) -> Response:
        """Inputs and outputs of a model."""
        face = faces.find(self._service, *_named(asked.request))
        return answers.json_response(
            {
                "name": face.name,
                "versions": face.versions(self._service),
                "platform": face.platform,
                "inputs": [_metadata(face.input)],
                "outputs": [_metadata(face.output)],
            }
        )

    async def config(self, asked: Asked) -> Response:
        """The configuration of a model as Triton would have it: its model configuration extension."""
        face = faces.find(self._service, *_named(asked.request))
        told = descriptions.configuration(face, self._max_images)
        return answers.json_response(answers.message(told.config))

    async def stats(self, asked: Asked) -> Response:
        """What a model has done since the server began: Triton's statistics extension."""
        return self._stats([faces.find(self._service, *_named(asked.request))])

    async def all_stats(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        """The same of all models that are loaded."""
        return self._stats(faces.loaded(self._service))

    def _stats(self, found: Sequence[Face]) -> Response:
        counts = self._service.statistics
        told = [descriptions.statistics(face, counts.of(face.model.identity)) for face in found]
        return answers.json_response({"model_stats": [answers.message(each) for each in told]})

    async def infer(self, asked: Asked) -> Response:
        """Classify the images of a request; one that cannot be classified fails it."""
        call = asked.call
        name, version = _named(asked.request)
        face = faces.find(self._service, name, version)
        content, binary = _split(asked.body, asked.request.headers.get(HEADER_LENGTH))
        asked.body = b""
        outputs = json_body.objects(json_body.given(content, "outputs", []), "outputs")
        wants_binary = _wants_binary(content, outputs)
        given = _request(content, binary, outputs, face, version)
        del content, binary
        request = inference.asked(given, self._service, call)
        del given
        answer = await self._service.classify(request, call, asked.caller)
        response = await inference.answered(request, answer, self._service, call)
        self._service.replied(answer, call)
        return await _response(response, wants_binary)


def _named(request: Request) -> tuple[str, str]:
    """The model that a path names, and its version."""
    found = request.path_params
    return found.get("model", ""), found.get("version", "")


def _metadata(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _split(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request, and the binary tensors behind it.

    Raises:
        InvalidRequestError: expected; the header says what cannot be, or there is no JSON.
    """
    if length is None:
        return json_body.parsed(body), b""
    if not (length.isdecimal() and len(length) < 12 and int(length) <= len(body)):
        raise malformed(
            f"{HEADER_LENGTH} must be the number of bytes of the JSON. Received: {shown(length)}.", field=HEADER_LENGTH
        )
    return json_body.parsed(body[: int(length)]), body[int(length) :]


def _request(
    content: dict[str, Any], binary: bytes, outputs: list[dict[str, Any]], face: Face, version: str
) -> InferRequest:
    """A request as plain values.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    given = json_body.objects(content.get("inputs"), "inputs")
    # One is all that a model takes: others are counted, not converted.
    inputs = [_input(given[0], binary, "inputs[0]")] if len(given) == 1 else [NO_TENSOR] * len(given)
    return InferRequest(
        model_name=face.name,
        model_version=version,
        id=json_body.string(json_body.given(content, "id", ""), "id"),
        parameters=_parameters(content, ""),
        inputs=inputs,
        outputs=[
            RequestedOutput(
                json_body.string(each.get("name"), f"outputs[{number}].name"), _parameters(each, f"outputs[{number}].")
            )
            for number, each in enumerate(outputs)
        ],
    )


def _input(content: dict[str, Any], binary: bytes, where: str) -> InputTensor:
    """The only input of a request, whose binary tensor is all of `binary`.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    name = json_body.string(content.get("name"), f"{where}.name")
    datatype = json_body.string(content.get("datatype"), f"{where}.datatype")
    parameters = _parameters(content, f"{where}.")
    shape = _shape(content.get("shape"), f"{where}.shape")
    if _SIZE not in parameters.values:
        if binary:
            raise malformed(_rest(len(binary)))
        raw, elements = _values_of(content.get("data"), datatype, f"{where}.data")
        return InputTensor(name, datatype, shape, raw, elements, f"{where}.data", parameters)
    if "data" in content:
        raise malformed(f"{where} has both data and {_SIZE}. Send one of them.", field=where)
    size = json_body.integer(parameters.values[_SIZE], parameters.where(_SIZE))
    if not 0 <= size <= len(binary):
        raise malformed(
            f"{where} should have {size} {noun(size, 'byte')} of binary data, but {len(binary)} "
            f"{noun(len(binary), 'is', 'are')} left of the body.",
            field=parameters.where(_SIZE),
        )
    if size < len(binary):
        raise malformed(_rest(len(binary) - size), field=parameters.where(_SIZE))
    return InputTensor(name, datatype, shape, binary, (), where, parameters)


def _rest(size: int) -> str:
    return f"The body has {size} {noun(size, 'byte')} behind its tensors."


def _shape(content: object, where: str) -> tuple[int, ...]:
    if not isinstance(content, list) or len(content) > _DIMENSIONS:
        raise malformed(f"{where} must be an array of at most {_DIMENSIONS} numbers.", field=where)
    shape = tuple(json_body.integer(each, where) for each in content)
    least, most = json_body.INT64
    if not all(least <= side <= most for side in shape):
        raise malformed(f"{where} must be numbers of 64 bits.", field=where)
    return shape


def _values_of(content: object, datatype: str, where: str) -> tuple[bytes | None, Sequence[bytes] | Sequence[int]]:
    """The values of a tensor in JSON, whose arrays may be nested: as they are in the raw representation, or one by one.

    An image of pixels is 150,000 numbers, so that nothing here looks at each of them in Python.

    Raises:
        InvalidRequestError: expected; they are none of that type.
    """
    flat = _flat(content, where)
    if datatype == BYTES:
        return None, [json_body.image(each, f"{where}[{number}]") for number, each in enumerate(flat)]
    if not set(map(type, flat)) <= {int}:  # true and false are no numbers
        raise malformed(f"{where} must be whole numbers, or base64 for BYTES.", field=where)
    try:
        return bytes(flat), ()
    except (ValueError, OverflowError):  # some are no bytes; which types there are is known elsewhere
        return None, flat


def _flat(content: object, where: str) -> list[Any]:
    """The elements of nested arrays, row by row.

    Raises:
        InvalidRequestError: expected; they are no arrays, or not of one depth.
    """
    if not isinstance(content, list):
        raise malformed(f"{where} must be an array.", field=where)
    for _ in range(_DIMENSIONS):
        kinds = set(map(type, content))
        if list not in kinds:
            return content
        if kinds != {list}:
            break
        content = list(chain.from_iterable(content))
    raise malformed(f"{where} must be arrays of one depth, at most {_DIMENSIONS}.", field=where)


def _parameters(content: dict[str, Any], where: str) -> Parameters:
    """The parameters of a request, or of a part of it; what is of no type that they may have becomes None.

    Raises:
        InvalidRequestError: expected; they are no object.
    """
    found = json_body.mapping(json_body.given(content, "parameters", {}), f"{where}parameters")
    return Parameters({name: _parameter(value) for name, value in found.items()}, f"{where}parameters.{{}}")


def _parameter(value: object) -> bool | int | float | str | None:
    """A parameter's value; over gRPC, a whole number has 64 bits, with or without a sign."""
    if isinstance(value, int) and not json_body.INT64[0] <= value < 1 << 64:
        return None
    return value if isinstance(value, bool | int | float | str) else None


def _wants_binary(content: dict[str, Any], outputs: list[dict[str, Any]]) -> dict[str, bool]:
    """By the name of an output, whether it is wanted in binary; "" is for those that are not named.

    Raises:
        InvalidRequestError: expected; a parameter is neither true nor false.
    """
    usual = _flag(_parameters(content, ""), _ALL_BINARY, default=False)
    named = {
        str(each.get("name")): _flag(_parameters(each, f"outputs[{number}]."), _BINARY, default=usual)
        for number, each in enumerate(outputs)
    }
    return {"": usual, **named}


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.values.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"{name} must be true or false.", field=parameters.where(name))
    return value


async def _response(response: InferResponse, binary: dict[str, bool]) -> Response:
    outputs, raw = list[bytes](), list[bytes]()
    for each in response.outputs:
        told: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": each.shape}
        if binary.get(each.name, binary[""]):
            outputs.append(answers.json_bytes({**told, "parameters": {_SIZE: len(each.raw)}}))
            raw.append(each.raw)
        else:
            outputs.append(answers.json_bytes(told)[:-1] + b',"data":' + await _values(each) + b"}")
    content: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        content["id"] = response.id
    if response.parameters:
        content["parameters"] = response.parameters
    head = answers.json_bytes(content)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    if not raw:
        return Response(head, 200, None, JSON)
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *raw]), 200, headers, "application/octet-stream")


async def _values(output: OutputTensor) -> bytes:
    """The values of an output as an array of JSON: numbers, or texts of a tensor of BYTES."""
    if output.datatype != BYTES:
        return await answers.array(np.frombuffer(output.raw, "<f4"))
    return await answers.array([each.decode("utf-8", "replace") for each in tensors.elements(output.raw)])


def _yes_or_no(content: dict[str, Any]) -> Response:
    *_, yes = content.values()
    return Response(json.dumps(content), 200 if yes else 503, None, JSON)
