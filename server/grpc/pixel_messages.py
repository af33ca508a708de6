"""Requests of raw pixels, read with the pixels left where they are in the message.

protobuf copies contents twice: when it parses a message, and when Python asks for a field. That is half of all copies
that the service makes of an image. So a long message is looked through here first. A request all of whose images are
raw pixels, as protobuf's libraries write it, is read without a copy. Everything else is left to protobuf, and so is
whatever is wrong or merely unusual: what a valid message is, and what it means, is said by protobuf alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message

from glimpse.server.domain import RawImage
from glimpse.server.grpc import message_fields
from glimpse.server.grpc.message_fields import CONTENTS, varint
from glimpse.v1 import classifier_pb2 as pb

_SHORT = 64 << 10  # bytes of a message for which protobuf's copies cost no more than to look through it
_LEAST = 1 << 10  # the same, of one image
_REST = 4 << 10  # bytes of a request besides its images
_NUMBER = 1 << 32  # protobuf cuts off what is beyond


class PixelRequest(NamedTuple):
    """A request, and its images in the message's own memory."""

    rest: pb.ClassifyRequest  # all but the images
    images: tuple[RawImage, ...]


class PixelStreamRequest(NamedTuple):
    """A request of a stream."""

    id: str
    request: PixelRequest


Reader = Callable[[bytes, int], Any]  # of a message with at most so many images; None: protobuf is to read it


def first(read: Reader, parse: Callable[[bytes], Any], most_fields: int) -> Callable[[bytes], Any]:
    """A parser that has `read` try long messages, and `parse` read the others, which `read` does not know.

    Args:
        read: `request` or `stream_request`.
        parse: protobuf's, within limits.
        most_fields: bytes of a message that are not contents of its fields.
    """
    most = most_fields // message_fields.EACH_IMAGE

    def parse_pixels_first(message: bytes) -> Any:
        """The message.

        Raises:
            InvalidRequestError: expected; MALFORMED_MESSAGE.
            DecodeError: expected; it is none.
        """
        found = read(message, most) if len(message) > _SHORT else None
        return parse(message) if found is None else found

    return parse_pixels_first


def request(message: bytes, most: int) -> PixelRequest | None:
    """A `ClassifyRequest` of at most `most` images.

    Raises:
        DecodeError: expected; it is none.
    """
    try:
        return _request(message, 0, most)
    except IndexError:  # it ends within a number
        return None


def stream_request(message: bytes, most: int) -> PixelStreamRequest | None:
    """The same of a `ClassifyStreamRequest`.

    Raises:
        DecodeError: expected; it is none.
    """
    try:
        at, name = 0, ""
        while True:
            begun = at
            tag, at = varint(message, at)
            size, at = varint(message, at)
            if tag == _STREAM_REQUEST and at + size == len(message):
                found = _request(message, at, most)
                return None if found is None else PixelStreamRequest(name, found)
            if tag != _STREAM_ID or begun or size > _REST:
                return None
            at += size
            name = pb.ClassifyStreamRequest.FromString(message[:at]).id
    except IndexError:
        return None


def _request(message: bytes, at: int, most: int) -> PixelRequest | None:
    """What begins at `at` and ends with the message."""
    view, end = memoryview(message), len(message)
    images: list[RawImage] = []
    rest = b""
    while at < end:
        begun = at
        tag, at = varint(message, at)
        size, at = varint(message, at)
        stop = at + size
        if tag & 7 != CONTENTS or stop > end:
            return None
        if tag != _IMAGE:
            if len(rest) + stop - begun > _REST:
                return None
            rest += message[begun:stop]
            at = stop
            continue
        found = _raw(message, at, stop)
        if found is None:
            return None
        height, width, channels, from_, to = found
        # Images of one size differ in their pixels alone: the others are known by what is before and behind these.
        head, tail, length = message[begun:from_], message[to:stop], stop - begun
        while True:
            images.append(RawImage(height, width, view[from_:to], channels))
            if len(images) > most:
                return None
            at, from_, to, stop = stop, from_ + length, to + length, stop + length
            if stop > end or not (message.startswith(head, at) and message.startswith(tail, to)):
                break
    return PixelRequest(pb.ClassifyRequest.FromString(rest), tuple(images))


def _raw(message: bytes, at: int, end: int) -> tuple[int, int, int, int, int] | None:
    """Height, width and channels of an image of raw pixels, and where these begin and end; None: it is no such."""
    tag, at = varint(message, at)
    size, at = varint(message, at)
    if tag != _RAW or at + size != end:
        return None
    numbers = {_HEIGHT: 0, _WIDTH: 0, _CHANNELS: 0}
    before = from_ = to = 0
    while at < end:
        tag, at = varint(message, at)
        value, at = varint(message, at)
        if tag <= before:  # twice, or in another order than they are written in
            return None
        before = tag
        if tag == _DATA:
            from_, to = at, at + value
            at = to
        elif tag in numbers and value < _NUMBER:
            numbers[tag] = value
        else:
            return None
    if at != end or to - from_ < _LEAST:
        return None
    return numbers[_HEIGHT], numbers[_WIDTH], numbers[_CHANNELS] or 3, from_, to


def _tag(kind: type[Message], field: str) -> int:
    """What stands before a field: its number, and whether its length or the number itself follows."""
    found = kind.DESCRIPTOR.fields_by_name[field]
    contents = found.type in {found.TYPE_MESSAGE, found.TYPE_BYTES, found.TYPE_STRING}
    return int(found.number) << 3 | (CONTENTS if contents else 0)


_STREAM_ID, _STREAM_REQUEST = (_tag(pb.ClassifyStreamRequest, name) for name in ("id", "request"))
_IMAGE, _RAW, _DATA = _tag(pb.ClassifyRequest, "images"), _tag(pb.Image, "raw"), _tag(pb.RawPixels, "data")
_HEIGHT, _WIDTH, _CHANNELS = (_tag(pb.RawPixels, name) for name in ("height", "width", "channels"))
