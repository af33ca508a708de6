"""What a call takes as an image: a file, its bytes, an array of pixels or a Pillow image; checked before it is sent.

Neither NumPy nor Pillow is imported: arrays are read by Python's buffer protocol, and Pillow images by their methods.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, cast

from glimpse.client import exif
from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.errors import Code, ImageRefusedError
from glimpse.v1 import classifier_pb2

if TYPE_CHECKING:
    from typing_extensions import Buffer

    class Array(Protocol):
        """An array of NumPy's kind; NumPy's type stubs declare the buffer protocol only from Python 3.12 on."""

        @property
        def shape(self) -> tuple[int, ...]: ...  # noqa: D102  (what it is everywhere)
        @property
        def __array_interface__(self) -> dict[str, Any]: ...

    class PillowImage(Protocol):
        """``PIL.Image.Image``."""

        @property
        def mode(self) -> str: ...  # noqa: D102  (Pillow's own)
        @property
        def size(self) -> tuple[int, int]: ...  # noqa: D102
        @property
        def info(self) -> dict[Any, Any]: ...  # noqa: D102

    ImageInput = str | os.PathLike[str] | Buffer | Array | PillowImage

# Around the pixels of one image there are a selector, options, an id and the lengths of all of them.
MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024

# What turns a picture upright, by its EXIF orientation: `PIL.Image.Transpose` by number.
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def load(image: ImageInput) -> classifier_pb2.Image:
    """The image as a request carries it.

    A file's bytes travel as they are, and the server decodes them. Pixels travel as raw pixels. A Pillow image travels
    as the pixels that a viewer would show, by the same rules as the server's for files: turned upright by its EXIF
    orientation, transparency on white, the upper 8 of 16 bits, and of an animation the frame that is current. It is not
    encoded again, which would lose what JPEG loses, so a picture of more than about 5.5 megapixels does not fit into a
    message: give the path or the bytes of such a file.

    Args:
        image: the path of an image file; or the file's bytes; or pixels, that is anything with the buffer protocol that
            is uint8 ``[height, width, 3]`` in the order red, green, blue, or grey ``[height, width]`` or ``[height,
            width, 1]``, such as a NumPy array; or a Pillow image. The server converts grey to colour and colour to grey
            where its model needs that. Only a grey array travels in one channel, which older servers refuse; a grey
            Pillow image travels in red, green and blue.

    Raises:
        OSError: the file cannot be read.
        ImageRefusedError: the image does not fit into a message (reason ``MESSAGE_TOO_LARGE``).
        TypeError: it is none of these.
        ValueError: an array of another shape or type, or a Pillow image whose range of values is not known.
    """
    if isinstance(image, (str, os.PathLike)):
        return classifier_pb2.Image(encoded=_within_limit(_read(image)))
    if is_pillow(image):
        return _from_pillow(image)
    try:
        view = memoryview(cast("Buffer", image))
    except TypeError as error:
        raise TypeError(
            "An image is a path, bytes, an array of uint8 [height, width, 3], or a Pillow image. "
            f"Received: {type(image).__name__}; numpy.asarray(image) makes an array of most things."
        ) from error
    shape = view.shape or ()
    if len(shape) == 1 and view.itemsize == 1:
        return classifier_pb2.Image(encoded=_within_limit(view.tobytes()))
    channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else 0
    if channels not in {1, 3} or view.format != "B":
        raise ValueError(
            "Pixels are uint8 [height, width, 3] in the order red, green, blue, or grey [height, width]. "
            f"Received: shape {list(shape)}, buffer format {view.format!r}."
        )
    return _raw(shape[1], shape[0], _within_limit(view.tobytes()), channels)


def is_pillow(image: object) -> bool:
    """Whether it is an image of Pillow's, of any of its classes."""
    return any(each.__name__ == "Image" and each.__module__ == "PIL.Image" for each in type(image).__mro__)


def _from_pillow(image: Any) -> classifier_pb2.Image:
    width, height = image.size
    if 3 * width * height > MAX_IMAGE_BYTES:
        raise ImageRefusedError(
            Code.INVALID_ARGUMENT,
            "MESSAGE_TOO_LARGE",
            f"The pixels of {width:,} x {height:,} do not fit into a message of {MAX_IMAGE_BYTES:,} bytes. Give the "
            "path or the bytes of its file, or make it smaller first: image.thumbnail((2048, 2048)).",
        )
    image.load()
    metadata = image.info.get("exif", b"")
    if (turn := _UPRIGHT.get(exif.orientation(metadata) if isinstance(metadata, bytes) else 1)) is not None:
        image = image.transpose(turn)
    pixels = _as_shown(image)
    width, height = pixels.size
    return _raw(width, height, pixels.tobytes())


def _as_shown(image: Any) -> Any:
    """In 8 bits of red, green and blue.

    Grey, too, although one channel would be a third of it: every server reads these, also older ones.
    """
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255.
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in {"I", "F"}:
        raise ValueError(
            "A Pillow image of mode I or F does not say which value is white; convert it to L or RGB first. "
            f"Received: mode {image.mode}."
        )
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        white = shown.copy()
        white.paste((255, 255, 255, 255), (0, 0, *shown.size))
        white.paste(shown, mask=shown)
        return white.convert("RGB")
    return image.convert("RGB")


def _raw(width: int, height: int, data: bytes, channels: int = 3) -> classifier_pb2.Image:
    raw = classifier_pb2.RawPixels(height=height, width=width, data=data)
    if channels != 3:  # which is what it means where nothing is said
        raw.channels = channels
    return classifier_pb2.Image(raw=raw)


def _read(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  (`Path` would turn https://a into https:/a in the error)
        # One byte more than fits tells a file that is too large without reading all of it: it may have no end.
        return file.read(MAX_IMAGE_BYTES + 1)


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageRefusedError(
            Code.INVALID_ARGUMENT,
            "MESSAGE_TOO_LARGE",
            f"An image of more than {MAX_IMAGE_BYTES:,} bytes does not fit into a message; send a smaller one.",
        )
    return data
