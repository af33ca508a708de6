"""The contents of tensors: photos and pixels out of inputs, and what goes into outputs.

In the raw representation an element of a tensor of BYTES is its length, four bytes with the least significant one
first, and then its bytes; numbers follow one another, row by row.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from glimpse.models.labels import ClassLabel
from glimpse.server.answers.postprocessing import top_k
from glimpse.server.domain import EncodedImage, Image, RawImage
from glimpse.server.errors import InvalidRequestError, Reason, shown
from glimpse.server.nouns import noun
from glimpse.server.open_inference.messages import InputTensor, TensorMetadata

_LENGTH = struct.Struct("<I")
_CHANNELS = {1, 3}
_DIMENSIONS = 8  # of a shape, as far as a message repeats them


def check(tensor: InputTensor, wanted: TensorMetadata, where: str, *, pixels: bool) -> int:
    """How many images a tensor says that it has; nothing of its contents is looked at. `where` is its field.

    Raises:
        InvalidRequestError: expected; INVALID_TENSOR: it is not what the model takes.
    """
    shape = tensor.shape
    if tensor.name != wanted.name:
        raise _wrong(f"The input must be called {wanted.name}. Received: {shown(tensor.name)}.", f"{where}.name")
    if tensor.datatype != wanted.datatype:
        raise _wrong(
            f"The input {wanted.name} must be of type {wanted.datatype}. Received: {shown(tensor.datatype)}.",
            f"{where}.datatype",
        )
    if pixels:
        fits = len(shape) == 4 and shape[3] in _CHANNELS
        takes = "[images, rows, columns, channels], with 3 channels for RGB or 1 for grey"
    else:
        fits = len(shape) < 2 or (len(shape) == 2 and shape[1] == 1)
        takes = "[images] or [images, 1]"
    if not fits or any(side < 0 for side in shape):
        received = ", ".join([*map(str, shape[:_DIMENSIONS]), *["..."] * (len(shape) > _DIMENSIONS)])
        raise _wrong(f"The shape of {wanted.name} must be {takes}. Received: [{received}].", f"{where}.shape")
    return shape[0] if shape else 1


def photos(tensor: InputTensor, images: int) -> tuple[Image, ...]:
    """The image files of a tensor that has been checked.

    Raises:
        InvalidRequestError: expected; INVALID_TENSOR: the contents are not those of so many elements.
    """
    if tensor.raw is not None:
        files: Iterable[bytes] = _split(tensor.raw, images, tensor.contents)
    elif len(tensor.elements) == images:
        files = [each if isinstance(each, bytes) else b"" for each in tensor.elements]
    else:
        raise _count(images, len(tensor.elements), "element", tensor.contents)
    return tuple([EncodedImage(file) for file in files])


def pictures(tensor: InputTensor, images: int) -> tuple[Image, ...]:
    """The pixels of a tensor that has been checked.

    Raises:
        InvalidRequestError: expected; INVALID_TENSOR: the contents are not those of so many images.
    """
    _, height, width, channels = tensor.shape
    size = height * width * channels
    data = tensor.raw
    if data is None:
        data = _from_numbers(tensor.elements, images * size, tensor.contents)
    if len(data) != images * size:
        raise _count(images * size, len(data), "byte", tensor.contents)
    all_pixels = memoryview(data)  # whose parts are not copied
    return tuple([RawImage(height, width, all_pixels[n * size : (n + 1) * size], channels) for n in range(images)])


def joined(elements: Iterable[bytes]) -> bytes:
    """Elements of a tensor of BYTES in the raw representation."""
    return b"".join([part for each in elements for part in (_LENGTH.pack(len(each)), each)])


def numbers(values: Sequence[NDArray[np.float32]]) -> bytes:
    """Rows of a tensor of FP32 in the raw representation."""
    return b"".join([np.ascontiguousarray(row, "<f4").tobytes() for row in values])


def told(values: NDArray[np.float32], labels: Sequence[ClassLabel], k: int, *, least: float = -math.inf) -> list[bytes]:
    """The k highest values as texts, `value:index:label`; the highest first, and empty ones for those below `least`.

    The value has six decimals, as Triton's has. A ":" within a label is left as it is.

    Args:
        values: float32 ``[classes]``.
        labels: one a class.
        k: 1..classes.
        least: in the unit of the values.
    """
    found = top_k(values, labels, k=k, min_probability=least)
    texts = [f"{each.probability:.6f}:{each.index}:{each.label}".encode() for each in found]
    return texts + [b""] * (k - len(texts))


def elements(raw: bytes, most: int = sys.maxsize) -> list[bytes]:
    """The whole elements at the beginning of a tensor of BYTES in the raw representation, at most so many."""
    found: list[bytes] = []
    at, end = 0, len(raw)
    while at < end and len(found) < most:
        begins = at + _LENGTH.size
        if begins > end:
            break
        (size,) = _LENGTH.unpack_from(raw, at)
        at = begins + size
        if at > end:
            break
        found.append(raw[begins:at])
    return found


def _split(raw: bytes, images: int, where: str) -> list[bytes]:
    """The elements of a tensor of BYTES, which must be so many."""
    found, end = elements(raw, images), len(raw)
    if len(found) != images or sum(map(len, found)) + _LENGTH.size * len(found) != end:
        raise _wrong(
            f"By its shape, the input must have {images} {noun(images, 'element')}. In front of each are four bytes "
            f"with its length, the least significant one first. Received: {end} {noun(end, 'byte')}, with {len(found)} "
            f"whole {noun(len(found), 'element')} in them.",
            where,
        )
    return found


def _from_numbers(elements: Sequence[bytes] | Sequence[int], number: int, where: str) -> bytes:
    if len(elements) != number:
        raise _count(number, len(elements), "element", where)
    try:
        return bytes(each if isinstance(each, int) else -1 for each in elements)
    except ValueError:
        raise _wrong("An element of a tensor of UINT8 must be from 0 to 255.", where) from None


def _count(wanted: int, received: int, what: str, where: str) -> InvalidRequestError:
    return _wrong(f"By its shape, the input must have {wanted} {noun(wanted, what)}. Received: {received}.", where)


def _wrong(message: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.INVALID_TENSOR, message, field=field)
