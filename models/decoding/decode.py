"""From the bytes of a file to an RGB picture: limits first, then the header, then the pixels.

Everything that a file can be is a `RefusedImageError` of its own kind; nothing else leaves this module.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from glimpse.models.decoding import formats, refusals
from glimpse.models.decoding.header import Header
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind, RefusedImageError
from glimpse.models.prestem import host
from glimpse.models.prestem.picture import Picture

# Pillow's own limit is off: it warns at 89 million pixels and refuses at 179, whatever ours is, and for some formats it
# comes after memory has been taken. Ours is checked against our own reading of the header, before Pillow sees the file.
Image.MAX_IMAGE_PIXELS = None

# Of the size of a whole upright picture, (width, height): the size that it is going to be resized to.
Target = Callable[[tuple[int, int]], tuple[int, int]]

# Left, top, right and bottom of a picture among the pixels that hold it.
Box = tuple[float, float, float, float]

_SCALES = (8, 4, 2)  # that a JPEG's blocks of 8 x 8 can be decoded at, as one over
# Pillow keeps a pointer for every row, in every copy: a column of a million pixels costs more than they do. No other
# format than PNG and BMP goes beyond.
MAX_SIDE = 65_535
_SIDEWAYS = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height


def decode(data: bytes, limits: ImageLimits, target: Target | None = None) -> Picture:
    """The picture as a viewer shows it: first frame, EXIF orientation applied, on white, RGB.

    Colours are those of the file: an embedded ICC profile is left alone, as it was when the published weights were
    trained. CMYK is taken as inverted, which is how Adobe's programs write it and how browsers read it.

    Args:
        data: the file.
        limits: what it may cost.
        target: what the picture is resized to afterwards. A JPEG file whose picture is much larger is decoded at a
            reduced scale, as `limits.reducing_gap` allows.

    Raises:
        RefusedImageError: expected; the file is no image, is damaged, is refused or is too large.
    """
    if not data:
        raise RefusedImageError(Kind.EMPTY_IMAGE, "The image is empty. Send an encoded file or raw pixels.")
    if len(data) > limits.max_bytes:
        raise RefusedImageError(
            Kind.IMAGE_BYTES_EXCEEDED,
            f"An encoded image may have at most {limits.max_bytes:,} bytes. Received: {len(data):,}. "
            "Send a smaller image.",
        )
    header = _header(data)
    width, height = header.size
    if min(width, height) < 1:
        raise refusals.damaged(f"a picture of {width} x {height} pixels")
    scale = _scale(header, limits, target)
    most = limits.max_pixels
    if scale > 1 and header.streamed:
        most = max(most, min(limits.max_jpeg_pixels, most * scale**2))
    check_pixels(width, height, most)
    try:
        return _picture(header, scale)
    except RefusedImageError:
        raise
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error and more
        raise _told(error, header) from error


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of the picture in a file, as a viewer shows it: what `decode` has as its picture's size.

    Raises:
        RefusedImageError: expected; the file is no image that can be decoded.
    """
    header = _header(data)
    return _upright(header.size, header.orientation)


def _told(error: Exception, header: Header) -> RefusedImageError:
    """What a decoder's error says of the file."""
    what = str(error) or type(error).__name__
    # Pillow tells these from damage only in its text.
    if isinstance(error, MemoryError) or "out of memory" in what:
        return refusals.no_memory()
    if isinstance(error, UnidentifiedImageError):
        what = f"a {header.form} file whose header cannot be read"
        return refusals.truncated(what) if header.cut else refusals.damaged(what)
    if header.cut or isinstance(error, EOFError) or "truncated" in what.lower():
        return refusals.truncated(what)
    return refusals.damaged(what)


def _header(data: bytes) -> Header:
    try:
        return formats.read(data)
    except RefusedImageError:
        raise
    except MemoryError as error:
        raise refusals.no_memory() from error
    except Exception as error:  # a slip of ours in reading what nobody has thought of costs that file alone
        raise refusals.damaged(f"an invalid header: {error}") from error


def _picture(header: Header, scale: int) -> Picture:
    with _opened(header) as image:
        if image.size != header.size:
            raise refusals.damaged(f"a picture of {header.size} pixels by one header, of {image.size} by another")
        box: Box = (0.0, 0.0, *image.size)
        if scale > 1:
            drafted = image.draft(None, (image.width // scale, image.height // scale))
            box = drafted[1] if drafted is not None else box
        reduced = image.size
        picture = host.to_rgb(image, header.orientation)
    return Picture(picture, _upright(header.size, header.orientation), _turned(box, reduced, header.orientation))


def _opened(header: Header) -> Image.Image:
    if header.pixels is not None:
        return header.pixels()
    return Image.open(io.BytesIO(header.data), formats=(header.form,))


def _scale(header: Header, limits: ImageLimits, target: Target | None) -> int:
    """One over the scale that a JPEG is decoded at; 1 for all else."""
    if not header.reducible or target is None or limits.reducing_gap <= 0:
        return 1
    width, height = whole = _upright(header.size, header.orientation)
    across, down = (side * limits.reducing_gap for side in target(whole))
    return next((scale for scale in _SCALES if width >= scale * across and height >= scale * down), 1)


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation in _SIDEWAYS else size


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where `box` in a picture of `size` lies once the picture has been turned upright."""
    (left, top, right, bottom), (width, height) = box, size
    if orientation in {2, 3, 7, 8}:  # the file's right side becomes the left one or, sideways, the top or the bottom
        left, right = width - right, width - left
    if orientation in {3, 4, 6, 7}:
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation in _SIDEWAYS else (left, top, right, bottom)


def check_pixels(width: int, height: int, most: int) -> None:
    """Whether a picture of these sides may be made.

    Raises:
        RefusedImageError: expected; it has too many pixels, or a side is too long.
    """
    if max(width, height) > MAX_SIDE:
        raise refusals.too_many_pixels(
            f"A side of an image may have at most {MAX_SIDE:,} pixels. Received: {width} x {height}"
        )
    if width * height > most:
        raise refusals.too_many_pixels(
            f"An image may have at most {most:,} pixels. Received: {width} x {height} = {width * height:,}"
        )
