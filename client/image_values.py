"""What is taken as an image, as plain values: the bytes of a file, or pixels. Nothing here loads protobuf.

Neither NumPy nor Pillow is imported: arrays are read by Python's buffer protocol, and Pillow images by their methods.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from glimpse.client import exif
from glimpse.client.errors import Code
from glimpse.client.results import ImageResult

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

# What turns a picture upright, by its EXIF orientation: `PIL.Image.Transpose` by number.
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file as it is."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pixels:
    """Decoded pixels, uint8, row by row from the top left."""

    height: int
    width: int
    data: bytes
    channels: int  # 3 for red, green and blue, 1 for grey


class Limits(Protocol):
    """What an image may have, checked before it is copied."""

    @property
    def file_bytes(self) -> int:
        """Bytes of a file; of a longer one no more than one byte beyond them is read."""

    def check_file(self, size: int) -> None:
        """Refuse a file of so many bytes.

        Raises:
            ImageRefusedError: expected; it is too large.
        """

    def check_pixels(self, width: int, height: int, channels: int) -> None:
        """Refuse so many pixels.

        Raises:
            ImageRefusedError: expected; they are too many.
        """


def read(image: ImageInput, limits: Limits) -> Encoded | Pixels:
    """The file's bytes or the pixels of whatever stands for an image.

    Raises:
        OSError: the file cannot be read.
        ImageRefusedError: it is above the limits.
        TypeError: it is no image of any kind.
        ValueError: an array of another shape or type, or a Pillow image whose range of values is not known.
    """
    if isinstance(image, (str, os.PathLike)):
        data = _file(image, limits.file_bytes)
        limits.check_file(len(data))
        return Encoded(data)
    if is_pillow(image):
        return _of_pillow(image, limits)
    try:
        view = memoryview(cast("Buffer", image))
    except TypeError as error:
        raise TypeError(
            "An image is a path, bytes, an array of uint8 [height, width, 3], or a Pillow image. "
            f"Received: {type(image).__name__}; numpy.asarray(image) makes an array of most things."
        ) from error
    shape = view.shape or ()
    if len(shape) == 1 and view.itemsize == 1:
        limits.check_file(view.nbytes)
        return Encoded(image if isinstance(image, bytes) else view.tobytes())
    channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else 0
    if channels not in {1, 3} or view.format != "B":
        raise ValueError(
            "Pixels are uint8 [height, width, 3] in the order red, green, blue, or grey [height, width]. "
            f"Received: shape {list(shape)}, buffer format {view.format!r}."
        )
    limits.check_pixels(shape[1], shape[0], channels)
    return Pixels(shape[0], shape[1], view.tobytes(), channels)


def is_pillow(image: object) -> bool:
    """Whether it is an image of Pillow's, of any of its classes."""
    return any(each.__name__ == "Image" and each.__module__ == "PIL.Image" for each in type(image).__mro__)


def unreadable(error: OSError) -> ImageResult:
    """The result of a file that cannot be read, among others that can."""
    if isinstance(error, FileNotFoundError):
        return ImageResult.failed(Code.NOT_FOUND, "FILE_NOT_FOUND", "There is no such file.")
    if isinstance(error, IsADirectoryError):
        message = "A folder cannot be classified, only the image files in it."
        return ImageResult.failed(Code.INVALID_ARGUMENT, "NOT_A_FILE", message)
    message = f"The file cannot be read: {error.strerror or error}."
    return ImageResult.failed(Code.INVALID_ARGUMENT, "FILE_UNREADABLE", message)


def _of_pillow(image: Any, limits: Limits) -> Pixels:
    """The pixels that a viewer would show, in red, green and blue.

    Grey, too, although one channel would be a third of it: every server reads these, also older ones.
    """
    width, height = image.size
    limits.check_pixels(width, height, 3)
    image.load()
    metadata = image.info.get("exif", b"")
    if (turn := _UPRIGHT.get(exif.orientation(metadata) if isinstance(metadata, bytes) else 1)) is not None:
        image = image.transpose(turn)
    shown = _as_shown(image)
    width, height = shown.size
    return Pixels(height, width, shown.tobytes(), 3)


def _as_shown(image: Any) -> Any:
    """In 8 bits of red, green and blue."""
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


def _file(path: str | os.PathLike[str], most: int) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  (`Path` would turn https://a into https:/a in the error)
        # One byte more than fits tells a file that is too large without reading all of it: it may have no end.
        return file.read(most + 1)
