"""The gRPC servicer: from protobuf to plain values and back. What is done with them is the service's."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np

from glimpse.models.outputs import DEFAULT_OUTPUTS, EMBEDDING, LOGITS
from glimpse.server import domain
from glimpse.server.access.call_context import CallContext, current_call
from glimpse.server.classify_stream import ClassifyStream
from glimpse.server.domain import Classification, Explanation, ImageResult
from glimpse.server.errors import ServiceError
from glimpse.server.fields import CONTRACT, Field, Names
from glimpse.server.grpc import pixel_messages
from glimpse.server.grpc.call import caller_of
from glimpse.server.grpc.handlers import Gate
from glimpse.server.grpc.pixel_messages import PixelRequest, PixelStreamRequest, Reader
from glimpse.server.messages import feedback
from glimpse.server.messages.describe import describe, identity
from glimpse.server.service import Service
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name

Context = grpc.aio.ServicerContext[Any, Any]

_HALF = np.finfo(np.float16)
_DEFAULT_MODEL = domain.ModelSelector()


@dataclass(slots=True, kw_only=True)  # not frozen, as what it is made of
class Asked(domain.ClassifyRequest):
    """What is asked for, and in which numbers its answer is to be."""

    half: bool = False  # embeddings in 16 bits


def gates(service: Service) -> Mapping[str, Gate]:
    """What gives the calls of each method that classifies a place, before their messages are read."""
    return {f"/{SERVICE}/Classify": service.place_for_call, f"/{SERVICE}/ClassifyStream": service.place_for_stream}


def readers() -> Mapping[str, Reader]:
    """What reads requests of raw pixels, of each method that classifies."""
    return {
        f"/{SERVICE}/Classify": pixel_messages.request,
        f"/{SERVICE}/ClassifyStream": pixel_messages.stream_request,
    }


def names() -> Mapping[str, Names]:
    """What the messages of each method call the fields that errors are about."""
    selector: Names = {each: CONTRACT[each] for each in (Field.MODEL, Field.VERSION)}
    by_method: dict[str, Names] = {"Classify": CONTRACT, "ClassifyStream": CONTRACT, "DescribeModel": selector}
    return {f"/{SERVICE}/{method}": found for method, found in by_method.items()}


class ImageClassifier(classifier_pb2_grpc.ImageClassifierServicer):
    """`glimpse.v1.ImageClassifier`."""

    def __init__(self, service: Service, limits: pb.Limits) -> None:
        """Serve `service`; `limits` are those that a description of a model tells."""
        self._service = service
        self._limits = limits
        self._codec = _Codec(service)

    async def Classify(  # noqa: N802 - the contract's name
        self, request: pb.ClassifyRequest | PixelRequest, context: Context
    ) -> pb.ClassifyResponse:
        """Classify 1..N images."""
        call = current_call.get()
        asked = self._codec.asked(request, call)
        answer = await self._service.classify(asked, call, caller_of(call, context))
        return await self._codec.replied(asked, answer, call)

    async def DescribeModel(  # noqa: N802 - the contract's name
        self,
        request: pb.DescribeModelRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.DescribeModelResponse:
        """Describe a loaded model."""
        return describe(self._service.model(_selector(request.model)), self._limits)

    async def Feedback(  # noqa: N802 - the contract's name
        self,
        request: pb.FeedbackRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.FeedbackResponse:
        """Compare true classes with answers."""
        told = await feedback.give(self._service, current_call.get(), feedback.of_message(request))
        return feedback.message(told)

    # A coroutine that writes, which grpc.aio takes as well as a generator: answers come from many tasks.
    async def ClassifyStream(  # type: ignore[override]  # noqa: N802 - the contract's name
        self, requests: AsyncIterator[pb.ClassifyStreamRequest | PixelStreamRequest], context: Context
    ) -> None:
        """Classify without end: read while there is room, answer in the order of completion."""
        call = current_call.get()
        await ClassifyStream(self._service, self._codec, call, caller_of(call, context), context.write).run(requests)


class _Codec:
    """Converts the messages of calls and of streams."""

    in_order = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def asked(self, request: pb.ClassifyRequest | PixelRequest, call: CallContext) -> Asked:
        """What a request asks for.

        Raises:
            InvalidRequestError: expected; TOO_MANY_IMAGES.
        """
        if isinstance(request, PixelRequest):
            rest, images = request
            self._service.check_size(call, rest.model.name, len(images))
            return _request(rest, images)
        self._service.check_size(call, request.model.name, len(request.images))
        return _request(request, tuple([_image(image) for image in request.images]))

    async def replied(
        self, asked: Asked, answer: Classification, call: CallContext, *, stream_id: str = ""
    ) -> pb.ClassifyResponse:
        """The reply to a request; `stream_id` is its id where it came on a stream."""
        response = pb.ClassifyResponse(model=_identity(answer.model))
        if answer.request_id:
            response.request_id = answer.request_id
        many = len(answer.results) > 1 and sum([len(each.predictions) for each in answer.results]) > domain.AT_ONCE
        for result in answer.results:
            # Filled in where it is to be, for a message that is made apart would be copied there.
            _add_result(response.results.add(), result, half=asked.half)
            if many:
                await asyncio.sleep(0)
        # What this took is part of the last stage, which the reply tells, too.
        self._service.replied(answer, call, stream_id=stream_id)
        for sent, result in zip(response.results, answer.results, strict=True):
            sent.timing.reply_seconds = result.timing.reply
        return response

    def request_id(self, message: pb.ClassifyStreamRequest | PixelStreamRequest) -> str:
        return message.id

    def request(self, message: pb.ClassifyStreamRequest | PixelStreamRequest, call: CallContext) -> Asked:
        return self.asked(message.request, call)

    async def answer(
        self,
        request_id: str,
        request: Asked,
        answer: Classification,
        call: CallContext,
    ) -> pb.ClassifyStreamResponse:
        response = await self.replied(request, answer, call, stream_id=request_id)
        return pb.ClassifyStreamResponse(id=request_id, response=response)

    def refusal(self, request_id: str, error: ServiceError) -> pb.ClassifyStreamResponse:
        return pb.ClassifyStreamResponse(
            id=request_id,
            error=pb.RequestError(
                code=int(error.code),
                reason=error.reason.value,
                message=error.message,
                retry_after_seconds=error.retry_after or 0.0,
            ),
        )


def _selector(model: pb.ModelSelector) -> domain.ModelSelector:
    return domain.ModelSelector(model.name, model.version)


def _request(request: pb.ClassifyRequest, images: tuple[domain.Image, ...]) -> Asked:
    model = _selector(request.model) if request.HasField("model") else _DEFAULT_MODEL
    if not request.HasField("options"):
        return Asked(images=images, model=model)
    options = request.options
    return Asked(
        images=images,
        model=model,
        top_k=options.top_k if options.HasField("top_k") else None,
        min_probability=options.min_probability,
        geometry=options.geometry,
        novelty=options.novelty if options.HasField("novelty") else None,
        require_known=options.require_known,
        outputs=DEFAULT_OUTPUTS.union(options.outputs) if options.outputs else DEFAULT_OUTPUTS,
        half=options.embedding_type == pb.EMBEDDING_TYPE_FLOAT16,
        classes=_choice(options.classes) if options.HasField("classes") else None,
        roll_up=options.roll_up,
        explain=domain.Explain(options.explain, options.explain_class) if options.explain else None,
    )


def _choice(classes: pb.ClassChoice) -> domain.ClassChoice | None:
    allow, deny = tuple(classes.allow), tuple(classes.deny)
    return domain.ClassChoice(allow, deny) if allow or deny else None


def _image(image: pb.Image) -> domain.Image:
    if image.HasField("raw"):
        raw = image.raw
        return domain.RawImage(raw.height, raw.width, raw.data, raw.channels or 3)
    return domain.EncodedImage(image.encoded)


@functools.lru_cache(64)
def _identity(model: domain.ModelIdentity) -> pb.ModelIdentity:
    """To be copied, not changed."""
    return identity(model)


def _add_outputs(sent: pb.ImageResult, result: ImageResult, *, half: bool) -> None:
    """What was asked for besides predictions."""
    if (logits := result.outputs.get(LOGITS)) is not None:
        sent.logits.extend(logits.tolist())
    if (embedding := result.outputs.get(EMBEDDING)) is None:
        return
    if half:
        # A number that has no place in 16 bits becomes the largest that has: an infinity would spoil every distance.
        sent.embedding_float16 = embedding.clip(_HALF.min, _HALF.max).astype("<f2").tobytes()
    else:
        sent.embedding.extend(embedding.tolist())


def _add_result(sent: pb.ImageResult, result: ImageResult, *, half: bool) -> None:
    """Fill in what became of an image; `half`: its embedding in 16 bits."""
    timing = result.timing
    for prediction in result.predictions:
        added = sent.predictions.add()
        added.index, added.label = prediction.index, prediction.label
        added.class_id, added.probability = prediction.class_id, prediction.probability
        if prediction.is_group:
            added.is_group = True
        if prediction.over_threshold is not None:
            added.over_threshold = prediction.over_threshold
    if (error := result.error) is not None:
        sent.error.code, sent.error.reason, sent.error.message = int(error.code), error.reason.value, error.message
    told = sent.timing
    told.decode_seconds, told.pre_stem_seconds = timing.decode, timing.pre_stem
    told.queue_seconds, told.compute_seconds = timing.queue, timing.compute
    told.batch_size, told.decode_wait_seconds = timing.batch_size, timing.decode_wait
    told.receive_seconds, told.admission_seconds = timing.receive, timing.admission
    if (novelty := result.novelty) is not None:
        sent.novelty.score, sent.novelty.threshold = novelty.score, novelty.threshold
        sent.novelty.known = novelty.known
    if result.outputs:
        _add_outputs(sent, result, half=half)
    if result.outside is not None:
        sent.probability_outside = result.outside
    if result.explanation is not None:
        _add_explanation(sent, result.explanation)


def _add_explanation(sent: pb.ImageResult, found: Explanation) -> None:
    rows, columns = found.values.shape
    explanation = pb.Explanation(
        index=found.index,
        label=found.label.label,
        class_id=found.label.class_id,
        method=found.method,
        rows=rows,
        columns=columns,
        values=found.values.tobytes(),
        lowest=found.lowest,
        highest=found.highest,
        area=pb.PhotoArea(**found.area._asdict()),
    )
    sent.explanation.CopyFrom(explanation)
