"""What the server and a decoder process say to each other: plain frames, in which nothing can be but data.

A decoder process may have been taken over by the file that it reads, so nothing that comes from one is unpickled, and
every reply to one recipe has the same length: the server reads no more and waits for no less.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.prepare import Prepared
from glimpse.server.errors import InvalidImageError, Reason, shown

HELLO = b"ready"  # a decoder process's first words

# Raw pixels?, their height, width and channels, bytes of the image, bytes of the recipe.
_REQUEST = struct.Struct("<?QQQQI")
_REPLY = struct.Struct("<BdI")  # refused?, seconds that the pre-stem took, bytes of the body
_TOLD = ("reason", "field", "message")
_TEXT = 4096  # bytes of them in JSON, at most


def request(image: domain.Image, recipe: Recipe) -> bytes:
    """An image and what to make of it."""
    said = _said(recipe)
    raw = isinstance(image, domain.RawImage)
    sizes = (image.height, image.width, image.channels) if isinstance(image, domain.RawImage) else (0, 0, 0)
    return b"".join((_REQUEST.pack(raw, *sizes, len(image.data), len(said)), said, image.data))


def read_request(read: Callable[[int], bytes]) -> tuple[domain.Image, Recipe] | None:
    """What `request` wrote; None where nobody is there any more.

    Args:
        read: so many bytes; fewer where the other end has gone.
    """
    head = read(_REQUEST.size)
    if len(head) < _REQUEST.size:
        return None
    raw, height, width, channels, size, said = _REQUEST.unpack(head)
    recipe, data = read(said), read(size) if size else b""
    if len(data) < size:
        return None
    return domain.RawImage(height, width, data, channels) if raw else domain.EncodedImage(data), _recipe(recipe)


def reply_size(recipe: Recipe) -> int:
    """Bytes of every reply for that recipe."""
    return _REPLY.size + max(math.prod(recipe.pixels_shape), _TEXT)


def reply(prepared: Prepared, recipe: Recipe) -> bytes:
    """The network's input."""
    size = prepared.pixels.nbytes
    head = _REPLY.pack(0, prepared.pre_stem_seconds, size)
    return b"".join((head, prepared.pixels.data, bytes(reply_size(recipe) - len(head) - size)))


def refusal(error: InvalidImageError, recipe: Recipe) -> bytes:
    """Why there is none. A message too long for a reply is cut."""
    told = {"reason": error.reason.value, "field": error.field, "message": error.message}
    while len(body := json.dumps(told).encode()) > _TEXT:
        told["message"] = told["message"][: len(told["message"]) // 2]
    return (_REPLY.pack(1, 0, len(body)) + body).ljust(reply_size(recipe), b"\0")


def read_reply(frame: memoryview, recipe: Recipe, seconds: float) -> Prepared:
    """The network's input that `reply` wrote.

    Args:
        frame: `reply_size(recipe)` bytes.
        recipe: what the request held.
        seconds: between the request and its reply. What of it was not the pre-stem counts as decoding.

    Raises:
        InvalidImageError: expected; what `refusal` wrote.
        ValueError: neither of the two wrote it.
    """
    refused, pre_stem, size = _REPLY.unpack_from(frame)
    if size > len(frame) - _REPLY.size:
        raise ValueError(f"A reply has {len(frame)} bytes with its header. Received: a body of {size}")
    body = frame[_REPLY.size : _REPLY.size + size]
    if refused:
        told = json.loads(body.tobytes())
        if not isinstance(told, dict) or not all(isinstance(told.get(key), str) for key in _TOLD):
            raise ValueError(f"A refusal has the fields {', '.join(_TOLD)}. Received: {shown(str(told))}")
        raise InvalidImageError(Reason(told["reason"]), told["message"], field=told["field"])
    if not 0 <= pre_stem <= seconds:
        raise ValueError(f"The time of the pre-stem must be within {seconds} s. Received: {pre_stem}")
    pixels = np.frombuffer(body, np.uint8).reshape(recipe.pixels_shape)
    return Prepared(pixels, seconds - pre_stem, pre_stem)


@lru_cache(maxsize=64)
def _said(recipe: Recipe) -> bytes:
    return json.dumps(recipe.to_dict()).encode()


@lru_cache(maxsize=64)
def _recipe(said: bytes) -> Recipe:
    return Recipe.from_dict(json.loads(said))
