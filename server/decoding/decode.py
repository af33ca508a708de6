"""From the bytes of a file, or raw pixels, to an RGB picture: limits first, then the header, then the pixels.

Everything that a file can be is an `InvalidImageError` with its own reason; nothing else leaves this module.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from models.prestem import host
from models.prestem.picture import Picture
from server import domain
from server.decoding import jpeg
from server.decoding.limits import ImageLimits
from server.errors import InvalidImageError, Reason

# Pillow's names. The list is short on purpose: most file-parser vulnerabilities sit in the formats left out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# Magic numbers of formats that people do send, to refuse them by name. (offset, bytes, name)
_REFUSED = (
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"8BPS", "PSD"),
    (0, b"%!PS", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
)
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_ALLOWED = (_JPEG, _PNG, b"GIF8", b"BM")


# Of the size of a whole picture, (width, height): the size that it is going to be resized to.
Target = Callable[[tuple[int, int]], tuple[int, int]]


def decode(image: domain.Image, limits: ImageLimits, target: Target | None = None) -> Picture:
    """The picture as a viewer shows it: first frame, EXIF orientation applied, RGB.

    Args:
        image: a file's bytes or raw pixels.
        limits: what it may cost.
        target: what the picture is resized to afterwards. A JPEG file whose picture is much larger is decoded at a
            reduced scale, as `limits.reducing_gap` allows.

    Raises:
        InvalidImageError: expected; the image is not one, is damaged, is refused or is too large.
    """
    del target  # not used yet
    if isinstance(image, domain.RawImage):
        return Picture.whole(_raw(image, limits))
    return Picture.whole(_encoded(image.data, limits))


def _raw(image: domain.RawImage, limits: ImageLimits) -> Image.Image:
    _check_pixels(image.width, image.height, limits)
    expected = image.height * image.width * 3
    if expected == 0 or len(image.data) != expected:
        raise InvalidImageError(
            Reason.RAW_PIXELS_MISMATCH,
            f"Raw pixels are height x width x 3 bytes with both sides at least 1. Received: {image.height} x "
            f"{image.width} x 3 = {expected}, with {len(image.data)} bytes.",
            field="raw.data",
        )
    return Image.frombuffer("RGB", (image.width, image.height), image.data, "raw", "RGB", 0, 1)


def _encoded(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        raise InvalidImageError(
            Reason.EMPTY_IMAGE, "The image holds no bytes. Send an encoded file or raw pixels.", field="encoded"
        )
    if len(data) > limits.max_bytes:
        raise InvalidImageError(
            Reason.IMAGE_BYTES_EXCEEDED,
            f"An encoded image may have {limits.max_bytes} bytes. Received: {len(data)}. Send it smaller.",
            field="encoded",
        )
    if data.startswith(_JPEG) and (objection := jpeg.objection(data)) is not None:
        raise InvalidImageError(Reason.CORRUPT_IMAGE, f"The JPEG file has {objection}. Save it anew.", field="encoded")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.width, image.height, limits)
            return host.to_rgb(image)
    except InvalidImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(
            Reason.IMAGE_PIXELS_EXCEEDED,
            f"An image may have {limits.max_pixels} pixels. This one has several times as many. Send it smaller.",
            field="encoded",
        ) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise _damaged(data, error) from error


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise InvalidImageError(
            Reason.IMAGE_PIXELS_EXCEEDED,
            f"An image may have {limits.max_pixels} pixels. Received: {width} x {height} = {width * height}. "
            "Send it smaller.",
        )


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _ends_early(data: bytes) -> bool:
    """Whether a file of a format for which Pillow does not say so has been cut: WebP tells its length, PNG its end."""
    if _is_webp(data):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return data.startswith(_PNG) and b"IEND" not in data


def _unidentified(data: bytes) -> InvalidImageError:
    allowed = ", ".join(FORMATS)
    for offset, magic, name in _REFUSED:
        if data[offset : offset + len(magic)] == magic:
            return InvalidImageError(
                Reason.UNSUPPORTED_FORMAT, f"{name} is not accepted. Send one of {allowed}.", field="encoded"
            )
    if data.startswith(_ALLOWED) or _is_webp(data):
        return InvalidImageError(
            Reason.TRUNCATED_IMAGE if _ends_early(data) else Reason.CORRUPT_IMAGE,
            f"The file starts like an image but its header cannot be read ({len(data)} bytes). Save it anew.",
            field="encoded",
        )
    return InvalidImageError(
        Reason.NOT_AN_IMAGE,
        f"These {len(data)} bytes are no image; they start with {data[:8]!r}. Send one of {allowed}.",
        field="encoded",
    )


def _damaged(data: bytes, error: Exception) -> InvalidImageError:
    # Pillow tells truncation from damage only in its text.
    if _ends_early(data) or isinstance(error, EOFError) or "truncated" in str(error).lower():
        return InvalidImageError(
            Reason.TRUNCATED_IMAGE,
            f"The data ends before the picture does ({error}). Send the whole file.",
            field="encoded",
        )
    return InvalidImageError(
        Reason.CORRUPT_IMAGE,
        f"The image is damaged ({str(error) or type(error).__name__}). Save it anew.",
        field="encoded",
    )
