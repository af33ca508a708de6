"""From an image of a request to an RGB or grey picture: raw pixels as they are, a file through the decoder of training.

Everything that an image can be is an `InvalidImageError` with its own reason; nothing else leaves this module.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.decoding import decode as files
from glimpse.models.decoding import refusals
from glimpse.models.decoding.decode import MAX_SIDE, Target
from glimpse.models.decoding.formats import FORMATS
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from glimpse.models.prestem.picture import Picture
from glimpse.server import domain
from glimpse.server.errors import InvalidImageError, Reason
from glimpse.server.nouns import noun

__all__ = ["FORMATS", "MAX_SIDE", "decode", "no_memory", "raw_pixels"]


def decode(image: domain.Image, limits: ImageLimits, target: Target | None = None) -> Picture:
    """The picture as a viewer shows it: first frame, EXIF orientation applied, on white, RGB; raw pixels may be grey.

    Args:
        image: a file's bytes or raw pixels.
        limits: what it may cost.
        target: what the picture is resized to afterwards, as in `models.decoding.decode.decode`.

    Raises:
        InvalidImageError: expected; the image is not one, is damaged, is refused or is too large.
    """
    if isinstance(image, domain.RawImage):
        pixels = raw_pixels(image, limits)
        return Picture.whole(Image.fromarray(pixels.squeeze(axis=-1) if image.channels == 1 else pixels))
    try:
        return files.decode(image.data, limits, target)
    except RefusedImageError as error:
        # What the codec itself raised: whoever limits memory tells a lack of it by that.
        raise _refusal(error) from (error.__cause__ or error)


def raw_pixels(image: domain.RawImage, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decoded pixels as they were sent: uint8 ``[height, width, channels]``, read-only.

    Raises:
        InvalidImageError: expected; they are too many, or not as many as their sides say.
    """
    try:
        files.check_pixels(image.width, image.height, limits.max_pixels)
    except RefusedImageError as error:
        raise _refusal(error) from error
    if image.channels not in {1, 3}:
        raise InvalidImageError(
            Reason.RAW_PIXELS_MISMATCH,
            f"Raw pixels have 3 channels, red, green and blue, or 1, grey. Received: {image.channels} channels.",
            field="raw.channels",
        )
    expected = image.height * image.width * image.channels
    if expected == 0 or len(image.data) != expected:
        grey = image.channels == 3 and 3 * len(image.data) == expected > 0
        raise InvalidImageError(
            Reason.RAW_PIXELS_MISMATCH,
            f"Raw pixels need height x width x {image.channels} bytes, with both sides at least 1. Received: "
            f"{image.height} x {image.width} x {image.channels} = {expected}, with {len(image.data)} "
            f"{noun(len(image.data), 'byte')}."
            f"{' Set channels to 1 if they are grey.' if grey else ''}",
            field="raw.data",
        )
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, image.channels)


def no_memory() -> InvalidImageError:
    """There was no memory for the picture, or for what is made of it."""
    return _refusal(refusals.no_memory())


def _refusal(error: RefusedImageError) -> InvalidImageError:
    # Pixels may be too many in either form of an image.
    field = "" if error.kind is Kind.IMAGE_PIXELS_EXCEEDED else "encoded"
    return InvalidImageError(Reason(error.kind.value), error.message, field=field)
