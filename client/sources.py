"""Where an image's pixels come from: a file, its bytes, or an array. Everything is checked before it is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.errors import Code, ImageRefusedError
from glimpse.v1 import classifier_pb2

if TYPE_CHECKING:
    from typing_extensions import Buffer

    class Array(Protocol):
        """An array of NumPy's kind; its stubs own up to the buffer protocol only from Python 3.12 on."""

        @property
        def shape(self) -> tuple[int, ...]: ...  # noqa: D102  (what it is everywhere)
        @property
        def __array_interface__(self) -> dict[str, Any]: ...

    Source = str | os.PathLike[str] | Buffer | Array

# Around the pixels of one image there are a selector, options, an id and the lengths of all of them.
MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024


def load(source: Source) -> classifier_pb2.Image:
    """The image as a request carries it.

    Args:
        source: path of an image file; or the file's bytes; or pixels: anything with the buffer protocol that is
            uint8 ``[height, width, 3]`` in red-green-blue, such as a NumPy array.

    Raises:
        OSError: the file cannot be read.
        ImageRefusedError: it fits into no message (reason ``MESSAGE_TOO_LARGE``).
        TypeError: neither a path nor a buffer.
        ValueError: an array of another shape or type.
    """
    if isinstance(source, (str, os.PathLike)):
        return classifier_pb2.Image(encoded=_within_limit(_read(source)))
    try:
        view = memoryview(cast("Buffer", source))
    except TypeError as error:
        raise TypeError(
            "An image is a path, bytes, or an array of uint8 [height, width, 3]. "
            f"Received: {type(source).__name__}; numpy.asarray(image) makes an array of most things."
        ) from error
    shape = view.shape or ()
    if len(shape) == 1 and view.itemsize == 1:
        return classifier_pb2.Image(encoded=_within_limit(view.tobytes()))
    if len(shape) != 3 or shape[2] != 3 or view.format != "B":
        raise ValueError(
            "Pixels are uint8 [height, width, 3] in red-green-blue. "
            f"Received: shape {list(shape)}, buffer format {view.format!r}."
        )
    pixels = _within_limit(view.tobytes())
    return classifier_pb2.Image(raw=classifier_pb2.RawPixels(height=shape[0], width=shape[1], data=pixels))


def _read(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        # One byte more than fits tells a file that is too large without reading all of it: it may have no end.
        return file.read(MAX_IMAGE_BYTES + 1)


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageRefusedError(
            Code.INVALID_ARGUMENT,
            "MESSAGE_TOO_LARGE",
            f"An image of more than {MAX_IMAGE_BYTES:,} bytes fits into no message; send a smaller one.",
        )
    return data
