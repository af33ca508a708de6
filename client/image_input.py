"""What a call takes as an image: a file, its bytes, an array of pixels or a Pillow image; checked before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimpse.client import image_values
from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.errors import Code, ImageRefusedError
from glimpse.client.image_values import Encoded
from glimpse.v1 import classifier_pb2

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

# Around the pixels of one image there are a selector, options, an id and the lengths of all of them.
_AROUND = 64 * 1024
_RAISE = "raise max_message_bytes (--max-message-bytes) as far as the server's own limits allow"


def room(max_message_bytes: int) -> int:
    """Bytes of the largest image that fits into a message of that size."""
    return max_message_bytes - _AROUND


MAX_IMAGE_BYTES = room(MAX_MESSAGE_BYTES)  # unless the client is told otherwise


class _OfMessage:
    """An image has to fit into a message."""

    def __init__(self, max_message_bytes: int) -> None:
        self.file_bytes = room(max_message_bytes)

    def check_file(self, size: int) -> None:
        if size > self.file_bytes:
            raise _too_large(
                f"An image of more than {self.file_bytes:,} bytes does not fit into a message. Send a smaller one, or "
                f"{_RAISE}."
            )

    def check_pixels(self, width: int, height: int, channels: int) -> None:
        if channels * width * height > self.file_bytes:
            raise _too_large(
                f"The pixels of {width:,} x {height:,} do not fit into a message, which has room for "
                f"{self.file_bytes:,} bytes of them. Give the path or the bytes of its file, make it smaller first "
                f"(Pillow's image.thumbnail((2048, 2048))), or {_RAISE}."
            )


def load(image: ImageInput, max_message_bytes: int = MAX_MESSAGE_BYTES) -> classifier_pb2.Image:
    """The image as a request carries it.

    A file's bytes travel as they are, and the server decodes them. Pixels travel as raw pixels. A Pillow image travels
    as the pixels that a viewer would show, by the same rules as the server's for files: turned upright by its EXIF
    orientation, transparency on white, the upper 8 of 16 bits, and of an animation the frame that is current. It is not
    encoded again, which would lose what JPEG loses, so a picture of more than about 5.5 megapixels does not fit into a
    message of 16 MiB: give the path or the bytes of such a file.

    Args:
        image: the path of an image file; or the file's bytes; or pixels, that is anything with the buffer protocol that
            is uint8 ``[height, width, 3]`` in the order red, green, blue, or grey ``[height, width]`` or ``[height,
            width, 1]``, such as a NumPy array; or a Pillow image. The server converts grey to colour and colour to grey
            where its model needs that. Only a grey array travels in one channel, which older servers refuse; a grey
            Pillow image travels in red, green and blue.
        max_message_bytes: of the message that is to hold it.

    Raises:
        OSError: the file cannot be read.
        ImageRefusedError: the image does not fit into a message (reason ``MESSAGE_TOO_LARGE``).
        TypeError: it is none of these.
        ValueError: an array of another shape or type, or a Pillow image whose range of values is not known.
    """
    value = image_values.read(image, _OfMessage(max_message_bytes))
    if isinstance(value, Encoded):
        return classifier_pb2.Image(encoded=value.data)
    raw = classifier_pb2.RawPixels(height=value.height, width=value.width, data=value.data)
    if value.channels != 3:  # which is what it means where nothing is said
        raw.channels = value.channels
    return classifier_pb2.Image(raw=raw)


def _too_large(message: str) -> ImageRefusedError:
    return ImageRefusedError(Code.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE", message)  # as of a server that takes less
