"""One request of the Open Inference Protocol: to what the service classifies, and from its answer to a response.

Of an answer the protocol knows tensors alone: an image that cannot be classified has no place in them, so that its
error becomes that of the whole request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import EMBEDDING, PROBABILITIES
from glimpse.server.access.call_context import CallContext
from glimpse.server.domain import AT_ONCE, Classification, ClassifyRequest, Image, ImageResult, ModelSelector
from glimpse.server.errors import InvalidImageError, InvalidRequestError, Reason, shown
from glimpse.server.fields import Field, Names
from glimpse.server.open_inference import faces, parameters, tensors
from glimpse.server.open_inference.faces import BYTES, FP32, Face
from glimpse.server.open_inference.messages import InferRequest, InferResponse, OutputTensor
from glimpse.server.service import Service

_LONGEST_ID = 4096  # characters, as on streams
_SHAPE = "inputs[0].shape"  # says how many images there are
NOVELTY = "novelty"  # the output that a request gets with the parameter of that name


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An output to be returned."""

    name: str
    classes: int  # told as the highest of so many classes; 0: as numbers


@dataclass(slots=True, kw_only=True)  # not frozen, as what it is made of
class Asked(ClassifyRequest):
    """What is asked for, and what its answer is to be like."""

    id: str
    face: str  # the name by which the model was asked for
    wanted: tuple[_Wanted, ...]
    contents: str  # where those of the images are in the message
    pixels: bool  # whether they are pixels


def names(model: str, version: str, parameter: str) -> Names:
    """What the messages of a transport call the fields that errors are about.

    Args:
        model: the name of the model.
        version: its version.
        parameter: one of a request; "{}" stands for its name.
    """
    options = (Field.TOP_K, Field.MIN_PROBABILITY, Field.GEOMETRY, Field.NOVELTY)
    return {
        Field.MODEL: model,
        Field.VERSION: version,
        Field.IMAGES: _SHAPE,
        Field.OUTPUTS: "outputs",
        **{each: parameter.format(each) for each in options},
    }


def asked(request: InferRequest, service: Service, call: CallContext) -> Asked:
    """What a request asks for; `call` is noted what it is.

    Raises:
        ModelNotFoundError, UnavailableError: expected; there is no such model, or none yet.
        InvalidRequestError: expected; TOO_MANY_IMAGES, INVALID_TENSOR, INVALID_PARAMETER, MALFORMED_MESSAGE.
    """
    service.check_size(call, request.model_name, 0)
    if len(request.id) > _LONGEST_ID:
        raise InvalidRequestError(
            Reason.MALFORMED_MESSAGE,
            f"The id of a request may have at most {_LONGEST_ID} characters. Received: {len(request.id)}. "
            "Send a shorter one.",
            field="id",
        )
    options = parameters.options(request.parameters)
    face = faces.find(service, request.model_name, request.model_version)
    wanted = _wanted(request, face, options.top_k)
    images = _images(request, face, lambda number: service.check_size(call, request.model_name, number))
    return Asked(
        images=images,
        # The version is chosen once the caller's rate lets the request in: until then another one may take its place.
        model=ModelSelector(face.model.identity.name, request.model_version),
        top_k=options.top_k,
        min_probability=options.min_probability,
        geometry=options.geometry,
        outputs=frozenset([each.name for each in wanted]),
        ranked=False,
        priority=options.priority,
        timeout=options.timeout,
        novelty=options.novelty or None,
        id=request.id,
        face=face.name,
        wanted=wanted,
        contents=request.inputs[0].contents,
        pixels=face.pixels,
    )


async def answered(request: Asked, answer: Classification, service: Service, call: CallContext) -> InferResponse:
    """The response to a request.

    Raises:
        InvalidImageError: expected; an image could not be classified.
    """
    results = answer.results
    for number, result in enumerate(results):
        if result.error is not None:
            service.failed(answer, call)
            raise result.error.of_request(_field(request, number, result.error), number, len(results))
    outputs = [
        await _output(each, [result.outputs[each.name] for result in results], request, answer)
        for each in request.wanted
    ]
    if request.novelty:
        outputs.append(_novelty(results))
    return InferResponse(request.face, answer.model.version, request.id, tuple(outputs), answer.request_id)


def _field(request: Asked, number: int, error: InvalidImageError) -> str:
    """What of the request the error of one of its images is about: what is wrong with pixels is mostly their shape."""
    if not request.pixels:
        return f"{request.contents}[{number}]"
    return request.contents if error.reason is Reason.DECODER_FAILED else _SHAPE


def _novelty(results: Sequence[ImageResult]) -> OutputTensor:
    """Of each image its score and the threshold, and 1 where it shows a class of the model, 0 where it shows none."""
    told = [each.novelty for each in results if each.novelty is not None]
    rows = [np.array([each.score, each.threshold, each.known], np.float32) for each in told]
    return OutputTensor(NOVELTY, FP32, (len(rows), 3), tensors.numbers(rows))


def _wanted(request: InferRequest, face: Face, top_k: int | None) -> tuple[_Wanted, ...]:
    if not request.outputs:
        return (_Wanted(PROBABILITIES, top_k or 0),)
    found: dict[str, _Wanted] = {}
    for number, each in enumerate(request.outputs):
        name = each.name
        if name not in face.model.outputs or name in found:
            problem = "is asked for twice" if name in found else "is none of this model's"
            raise InvalidRequestError(
                Reason.INVALID_TENSOR,
                f"The output {shown(name)} {problem}. Ask for each of these at most once: "
                f"{', '.join(sorted(face.model.outputs))}.",
                field=f"outputs[{number}].name",
            )
        classes = parameters.classes(each.parameters)
        if classes and name == EMBEDDING:
            raise InvalidRequestError(
                Reason.INVALID_PARAMETER,
                "The output embedding has no classes. Ask for it without the parameter classification.",
                field=each.parameters.where(parameters.CLASSIFICATION),
            )
        if not classes and name == PROBABILITIES:
            classes = top_k or 0
        found[name] = _Wanted(name, classes)
    return tuple(found.values())


def _images(request: InferRequest, face: Face, check_number: Callable[[int], object]) -> tuple[Image, ...]:
    if len(request.inputs) != 1:
        raise InvalidRequestError(
            Reason.INVALID_TENSOR,
            f"A request has one input, {face.input.name}. Received: {len(request.inputs)}.",
            field="inputs",
        )
    (tensor,) = request.inputs
    parameters.check_not_shared(tensor.parameters)
    number = tensors.check(tensor, face.input, "inputs[0]", pixels=face.pixels)
    check_number(number)
    return (tensors.pictures if face.pixels else tensors.photos)(tensor, number)


async def _output(
    wanted: _Wanted, rows: list[NDArray[np.float32]], request: Asked, answer: Classification
) -> OutputTensor:
    """An output of all images; where it is many texts, others have the event loop after each image."""
    least = request.min_probability if wanted.name == PROBABILITIES else 0.0
    if wanted.classes:
        k = min(wanted.classes, len(answer.labels))
        bound = {"least": least} if least else {}
        texts: list[bytes] = []
        for row in rows:
            texts += tensors.told(row, answer.labels, k, **bound)
            if k * len(rows) > AT_ONCE:
                await asyncio.sleep(0)
        return OutputTensor(wanted.name, BYTES, (len(rows), k), tensors.joined(texts))
    if least:
        rows = [np.where(row >= least, row, np.float32(0)) for row in rows]
    return OutputTensor(wanted.name, FP32, (len(rows), *rows[0].shape), tensors.numbers(rows))
