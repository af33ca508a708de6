"""From this package's values to protobuf messages, and back."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.errors import Code, InvalidRequestError
from glimpse.client.image_input import load
from glimpse.client.options import Options, check_names
from glimpse.client.results import (
    Agreement,
    ClassGroup,
    ClassLabel,
    Explanation,
    Head,
    ImageError,
    ImageResult,
    InputShape,
    Limits,
    ModelDescription,
    ModelIdentity,
    Novelty,
    NoveltyThreshold,
    OutputDescription,
    PhotoArea,
    Prediction,
    PreStem,
    Runtime,
    Stage,
    Timing,
)
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

_UINT32_MAX = 2**32 - 1
_EMBEDDING_TYPES = {"float32": pb.EMBEDDING_TYPE_FLOAT32, "float16": pb.EMBEDDING_TYPE_FLOAT16}


def to_selector(model: str, version: str) -> pb.ModelSelector:
    """Empty strings: the server's default model, its newest version."""
    return pb.ModelSelector(name=model, version=version)


def to_describe(model: str, version: str) -> pb.DescribeModelRequest:
    """The request for the description of a model."""
    return pb.DescribeModelRequest(model=to_selector(model, version))


def to_options(asked: Options) -> pb.ClassifyOptions:
    """What to return of each image; what is in range is for the server to say.

    Raises:
        InvalidRequestError: `top_k` is a number that the message cannot hold.
        ValueError: there is no such type of embeddings.
        TypeError: there is no such option, or a text stands where a list of texts should.
    """
    check_names(asked, Options)
    top_k = asked.get("top_k")
    if top_k is not None and not 0 <= top_k <= _UINT32_MAX:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            "TOP_K_OUT_OF_RANGE",
            f"top_k must be 1..number of classes. Received: {top_k}.",
            field="options.top_k",
        )
    embedding_type = asked.get("embedding_type", "float32")
    if embedding_type not in _EMBEDDING_TYPES:
        raise ValueError(f"embedding_type must be float32 or float16. Received: {embedding_type!r}")
    outputs, allow, deny = asked.get("outputs", ()), asked.get("allow", ()), asked.get("deny", ())
    for name, value in (("outputs", outputs), ("allow", allow), ("deny", deny)):
        if isinstance(value, str):  # whose letters would be names
            raise TypeError(f"{name} must be a list of names, such as [{value!r}]. Received: {value!r}")
    options = pb.ClassifyOptions(
        top_k=top_k,
        min_probability=asked.get("min_probability", 0.0),
        geometry=asked.get("geometry", ""),
        outputs=outputs,
        # Unset unless it matters: a request that asks for nothing new is what it always was.
        embedding_type=_EMBEDDING_TYPES[embedding_type] if embedding_type != "float32" else None,
        classes=pb.ClassChoice(allow=allow, deny=deny) if allow or deny else None,
        roll_up=asked.get("roll_up", 0.0),
        require_known=asked.get("require_known", False),
        explain=asked.get("explain", ""),
        explain_class=asked.get("explain_class", ""),
    )
    if (novelty := asked.get("novelty")) is not None:
        options.novelty = novelty
    return options


def to_requests(
    asked: Options, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> Callable[[ImageInput], pb.ClassifyRequest]:
    """A function that turns an image into a request; it raises what `client.image_input.load` raises.

    Args:
        asked: the options of the call.
        max_message_bytes: of a request; an image that does not fit is refused.

    Raises:
        InvalidRequestError, ValueError, TypeError: as `to_options`.
    """
    selector, options = to_selector(asked.get("model", ""), asked.get("version", "")), to_options(asked)

    def to_request(image: ImageInput) -> pb.ClassifyRequest:
        return pb.ClassifyRequest(model=selector, images=[load(image, max_message_bytes)], options=options)

    return to_request


def from_response(response: pb.ClassifyResponse) -> list[ImageResult]:
    """One result an image, in the order of the request."""
    model = _identity(response.model)
    return [_result(result, model, response.request_id) for result in response.results]


def _identity(model: pb.ModelIdentity) -> ModelIdentity:
    return ModelIdentity(model.name, model.version, model.weights_digest)


def _result(result: pb.ImageResult, model: ModelIdentity, request_id: str) -> ImageResult:
    timing = result.timing
    return ImageResult(
        predictions=tuple(
            Prediction(
                p.index,
                p.label,
                p.probability,
                p.class_id,
                p.is_group,
                p.over_threshold if p.HasField("over_threshold") else None,
            )
            for p in result.predictions
        ),
        error=_error(result.error) if result.HasField("error") else None,
        timing=Timing(
            timing.decode_seconds,
            timing.pre_stem_seconds,
            timing.queue_seconds,
            timing.compute_seconds,
            timing.batch_size,
            timing.decode_wait_seconds,
            timing.receive_seconds,
            timing.admission_seconds,
            timing.reply_seconds,
        ),
        model=model,
        logits=array("f", result.logits) if result.logits else None,
        embedding=_embedding(result),
        probability_outside=result.probability_outside if result.HasField("probability_outside") else None,
        novelty=Novelty(result.novelty.score, result.novelty.threshold, result.novelty.known)
        if result.HasField("novelty")
        else None,
        request_id=request_id,
        explanation=_explanation(result.explanation) if result.HasField("explanation") else None,
    )


def _explanation(found: pb.Explanation) -> Explanation:
    area = found.area
    return Explanation(
        found.index,
        found.label,
        found.class_id,
        found.method,
        found.rows,
        found.columns,
        found.values,
        found.lowest,
        found.highest,
        PhotoArea(area.left, area.top, area.right, area.bottom),
    )


def _embedding(result: pb.ImageResult) -> array[float] | None:
    if result.embedding_float16:
        halves = result.embedding_float16
        return array("f", struct.unpack(f"<{len(halves) // 2}e", halves))
    return array("f", result.embedding) if result.embedding else None


def _error(error: pb.ImageError) -> ImageError:
    return ImageError(to_code(error.code), error.reason, error.message)


def to_code(number: int) -> Code:
    """The status code of that number; UNKNOWN for a number that gRPC does not define, as its specification asks."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def from_description(reply: pb.DescribeModelResponse) -> ModelDescription:
    """The description as values."""
    pre_stem, runtime, limits = reply.pre_stem, reply.runtime, reply.limits
    agreement = runtime.agreement
    return ModelDescription(
        model=_identity(reply.model),
        architecture=reply.architecture,
        variant=reply.variant,
        paper=reply.paper,
        input=InputShape(reply.input.height, reply.input.width, reply.input.channels),
        classes=tuple(ClassLabel(c.index, c.label, c.class_id, tuple(c.synonyms)) for c in reply.classes),
        parameters=reply.parameters,
        trainable_parameters=reply.trainable_parameters,
        stages=tuple(
            Stage(s.name, s.block, s.repeats, tuple(s.output_shape), s.parameters, s.multiply_adds)
            for s in reply.stages
        ),
        pre_stem=PreStem(
            height=pre_stem.height,
            width=pre_stem.width,
            geometry=pre_stem.geometry,
            crop_share=pre_stem.crop_share,
            filter=pre_stem.filter,
            fill=tuple(pre_stem.fill),
            mean=tuple(pre_stem.mean),
            std=tuple(pre_stem.std),
            digest=pre_stem.digest,
            channels=pre_stem.channels,
            smaller=pre_stem.smaller,
            antialias=pre_stem.antialias,
            padding=pre_stem.padding or "fill",  # of which a server from before it knows nothing else
        ),
        temperature=reply.temperature,
        runtime=Runtime(
            runtime.name,
            runtime.device,
            runtime.precision,
            tuple(runtime.batch_sizes),
            Agreement(agreement.precision, agreement.top1, agreement.pictures, agreement.unclear)
            if runtime.HasField("agreement")
            else None,
        ),
        limits=Limits(
            max_images_per_request=limits.max_images_per_request,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_message_bytes=limits.max_message_bytes,
            max_images_in_flight=limits.max_images_in_flight,
            formats=tuple(limits.formats),
            max_jpeg_pixels=limits.max_jpeg_pixels,
            jpeg_reducing_gap=limits.jpeg_reducing_gap,
            geometries=tuple(limits.geometries),
            max_bytes_in_flight=limits.max_bytes_in_flight,
        ),
        output=reply.output,
        options={name: _json(value) for name, value in reply.options.items()},
        outputs=tuple(OutputDescription(each.name, each.size) for each in reply.outputs),
        groups=tuple(ClassGroup(each.name, tuple(each.classes)) for each in reply.groups),
        novelty=NoveltyThreshold(
            reply.novelty.score, reply.novelty.threshold, reply.novelty.known_share, reply.novelty.images
        )
        if reply.HasField("novelty")
        else None,
        head=Head(
            reply.head.kind or "softmax",  # of which a server from before it knows nothing else
            tuple(reply.head.thresholds),
            tuple(reply.head.temperatures),
            tuple(reply.head.offsets),
        ),
        explanations=tuple(reply.explanations),
    )


def _json(text: str) -> Any:
    """A value in JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
