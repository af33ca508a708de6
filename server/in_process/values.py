"""Between the client's values, which a classifier takes and gives, and those of the pipeline."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glimpse.client import errors, image_values, results
from glimpse.client.image_values import Encoded
from glimpse.client.options import ImageOptions, check_names
from glimpse.models.decoding.decode import check_pixels
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from glimpse.models.outputs import DEFAULT_OUTPUTS, EMBEDDING, LOGITS
from glimpse.server import domain
from glimpse.server.domain import Classification
from glimpse.server.errors import ServiceError
from glimpse.server.fields import CONTRACT

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput


def to_request(options: ImageOptions) -> Callable[[domain.Image], domain.ClassifyRequest]:
    """A function that makes the request for an image.

    Raises:
        TypeError: there is no such option, or it is of another kind.
    """
    check_names(options, ImageOptions)
    outputs = _names("outputs", options.get("outputs", ()))
    allow, deny = _names("allow", options.get("allow", ())), _names("deny", options.get("deny", ()))
    if (top_k := options.get("top_k")) is not None and not isinstance(top_k, Integral):
        raise TypeError(f"top_k must be a whole number. Received: {top_k!r}")
    for name in ("min_probability", "roll_up"):
        if not isinstance(value := options.get(name, 0.0), Real):
            raise TypeError(f"{name} must be a number. Received: {value!r}")
    for name in ("geometry", "explain", "explain_class"):
        if not isinstance(value := options.get(name) or "", str):
            raise TypeError(f"{name} must be a text. Received: {value!r}")
    blank = domain.ClassifyRequest(
        (),
        top_k=None if top_k is None else int(top_k),
        min_probability=options.get("min_probability", 0.0),
        geometry=options.get("geometry", ""),
        outputs=DEFAULT_OUTPUTS.union(outputs),
        classes=domain.ClassChoice(allow, deny) if allow or deny else None,
        roll_up=options.get("roll_up", 0.0),
        novelty=options.get("novelty"),
        require_known=options.get("require_known", False),
        explain=domain.Explain(method, options.get("explain_class", ""))
        if (method := options.get("explain"))
        else None,
    )
    return lambda image: replace(blank, images=(image,))


def _names(option: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):  # whose letters would be names
        raise TypeError(f"{option} must be a list of names, such as [{given!r}]. Received: {given!r}")
    for each in (names := tuple(given)):
        if not isinstance(each, str):  # an index, too, is written as a text
            raise TypeError(f"{option} must be a list of names, such as [{str(each)!r}]. Received: [{each!r}]")
    return names


class InputLimits:
    """What an image may have: the service's limits, checked before a file is read whole or an array is copied."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self.file_bytes = limits.max_bytes

    def check_file(self, size: int) -> None:
        """Refuse what is larger than an encoded image may be.

        Raises:
            ImageRefusedError: expected; IMAGE_BYTES_EXCEEDED.
        """
        most = self._limits.max_bytes
        if size > most:
            raise errors.ImageRefusedError(
                errors.Code.INVALID_ARGUMENT,
                Kind.IMAGE_BYTES_EXCEEDED,
                f"An encoded image may have at most {most} bytes. Received: more. Make it smaller, or raise "
                "max_image_bytes.",
            )

    def check_pixels(self, width: int, height: int, channels: int) -> None:  # noqa: ARG002 - the protocol's
        """Refuse more pixels than a picture may have.

        Raises:
            ImageRefusedError: expected; IMAGE_PIXELS_EXCEEDED.
        """
        try:
            check_pixels(width, height, self._limits.max_pixels)
        except RefusedImageError as error:
            raise errors.ImageRefusedError(errors.Code.INVALID_ARGUMENT, error.kind, error.message) from error


def to_image(image: ImageInput, limits: InputLimits) -> domain.Image:
    """The image as a request of the pipeline holds it.

    Raises:
        OSError: the file cannot be read.
        ImageRefusedError: expected; it is above the limits.
        TypeError, ValueError: it is no image, see `image_values.read`.
    """
    value = image_values.read(image, limits)
    if isinstance(value, Encoded):
        return domain.EncodedImage(value.data)
    return domain.RawImage(value.height, value.width, value.data, value.channels)


def to_result(answer: Classification) -> results.ImageResult:
    """The result of a request's only image, as the client gives it."""
    (result,) = answer.results
    timing, error, novelty = result.timing, result.error, result.novelty
    return results.ImageResult(
        predictions=tuple(
            [
                results.Prediction(
                    each.index, each.label, each.probability, each.class_id, each.is_group, each.over_threshold
                )
                for each in result.predictions
            ]
        ),
        error=(
            None
            if error is None
            else results.ImageError(errors.Code(int(error.code)), error.reason.value, error.message)
        ),
        timing=results.Timing(
            decode_seconds=timing.decode,
            pre_stem_seconds=timing.pre_stem,
            queue_seconds=timing.queue,
            compute_seconds=timing.compute,
            batch_size=timing.batch_size,
            decode_wait_seconds=timing.decode_wait,
            receive_seconds=timing.receive,
            admission_seconds=timing.admission,
            reply_seconds=timing.reply,
        ),
        model=results.ModelIdentity(answer.model.name, answer.model.version, answer.model.weights_digest),
        logits=_floats(result.outputs.get(LOGITS)),
        embedding=_floats(result.outputs.get(EMBEDDING)),
        # In 32 bits, as these travel from a server.
        probability_outside=None if result.outside is None else float(np.float32(result.outside)),
        novelty=(
            None
            if novelty is None
            else results.Novelty(float(np.float32(novelty.score)), float(np.float32(novelty.threshold)), novelty.known)
        ),
        explanation=None if result.explanation is None else _explanation(result.explanation),
    )


def _explanation(found: domain.Explanation) -> results.Explanation:
    label, (rows, columns) = found.label, found.values.shape
    lowest, highest, *area = np.array([found.lowest, found.highest, *found.area], np.float32).tolist()
    return results.Explanation(
        found.index,
        label.label,
        label.class_id,
        found.method,
        rows,
        columns,
        found.values.tobytes(),
        lowest,
        highest,
        results.PhotoArea(*area),
    )


def _floats(values: NDArray[np.float32] | None) -> array[float] | None:
    return None if values is None else array("f", values.tobytes())


def to_error(error: ServiceError) -> errors.GlimpseError:
    """What the client raises where the service refuses a request."""
    code = errors.Code(int(error.code))
    return errors.of_code(code)(
        code,
        error.reason.value,
        error.message,
        field=CONTRACT.get(error.field, error.field),
        retry_after=error.retry_after,
    )
