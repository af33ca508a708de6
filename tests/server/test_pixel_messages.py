"""Requests of raw pixels are read as protobuf reads them, without a copy of the pixels; all others by protobuf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.domain import RawImage, apart
from glimpse.server.grpc import pixel_messages
from glimpse.v1 import classifier_pb2 as pb

MOST = 64
SIDE = 64


def pixels(number: int, side: int = SIDE) -> bytes:
    return bytes([number]) * (side * side * 3)


def raw(number: int, side: int = SIDE, **more: int) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=side, width=side, data=pixels(number, side), **more))


ONE = pb.ClassifyRequest(images=[raw(1)])
MANY = pb.ClassifyRequest(
    model=pb.ModelSelector(name="name"),
    images=[raw(1), raw(2), raw(3, 96), raw(4), raw(5, channels=3), raw(6, channels=3), raw(7, channels=1)],
    options=pb.ClassifyOptions(top_k=3, outputs=["logits"]),
)


def as_protobuf(message: bytes) -> tuple[pb.ClassifyRequest, list[tuple[int, int, int, bytes]]]:
    request = pb.ClassifyRequest.FromString(message)
    images = [(each.raw.height, each.raw.width, each.raw.channels or 3, each.raw.data) for each in request.images]
    del request.images[:]
    return request, images


def as_read(found: pixel_messages.PixelRequest) -> tuple[pb.ClassifyRequest, list[tuple[int, int, int, bytes]]]:
    return found.rest, [(each.height, each.width, each.channels, bytes(each.data)) for each in found.images]


@pytest.mark.parametrize("request_", [ONE, MANY], ids=["one image", "many, and options"])
def test_a_request_is_read_as_protobuf_reads_it(request_: pb.ClassifyRequest) -> None:
    message = request_.SerializeToString()
    found = pixel_messages.request(message, MOST)
    assert found is not None
    assert as_read(found) == as_protobuf(message)


def test_the_pixels_are_those_of_the_message() -> None:
    message = MANY.SerializeToString()
    found = pixel_messages.request(message, MOST)
    assert found is not None
    assert all(isinstance(image.data, memoryview) and image.data.obj is message for image in found.images)


def test_a_request_of_a_stream_is_read_with_its_id() -> None:
    message = pb.ClassifyStreamRequest(id="é", request=MANY).SerializeToString()
    found = pixel_messages.stream_request(message, MOST)
    assert found is not None
    assert found.id == "é"
    assert as_read(found.request) == as_protobuf(MANY.SerializeToString())


def test_a_request_of_a_stream_needs_no_id() -> None:
    found = pixel_messages.stream_request(pb.ClassifyStreamRequest(request=ONE).SerializeToString(), MOST)
    assert found is not None
    assert found.id == ""


UNUSUAL = {
    "a file": pb.ClassifyRequest(images=[pb.Image(encoded=pixels(0))]).SerializeToString(),
    "a file among pixels": pb.ClassifyRequest(images=[raw(1), pb.Image(encoded=b"1")]).SerializeToString(),
    "no pixels": pb.ClassifyRequest(images=[pb.Image(raw=pb.RawPixels(height=1, width=1))]).SerializeToString(),
    "few pixels": pb.ClassifyRequest(images=[raw(1, 16)]).SerializeToString(),
    "many options": pb.ClassifyRequest(images=[raw(1)], options={"geometry": "x" * 5000}).SerializeToString(),
    "a number as an unknown field": ONE.SerializeToString() + b"\x78\x01",
    "not its end": ONE.SerializeToString()[:-1],
    "not its number's end": ONE.SerializeToString() + b"\x12\x80",
}


@pytest.mark.parametrize("message", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_protobuf(message: bytes) -> None:
    assert pixel_messages.request(message, MOST) is None


def test_more_images_than_may_be_are_left_to_protobuf() -> None:
    message = MANY.SerializeToString()
    assert pixel_messages.request(message, len(MANY.images) - 1) is None
    assert pixel_messages.request(message, len(MANY.images)) is not None


def test_a_number_that_protobuf_cuts_off_is_left_to_it() -> None:
    body = b"\x08\x80\x80\x80\x80\x10\x10\x40\x1a" + b"\x80\x60" + bytes(96 * 128)
    image = b"\x12" + length(len(body)) + body
    message = b"\x12" + length(len(image)) + image
    assert as_protobuf(message)[1] == [(0, 64, 3, bytes(96 * 128))]
    assert pixel_messages.request(message, MOST) is None


def test_text_that_is_none_is_refused_as_protobuf_refuses_it() -> None:
    message = b"\x0a\x03\x0a\x01\xff" + ONE.SerializeToString()
    with pytest.raises(DecodeError):
        pb.ClassifyRequest.FromString(message)
    with pytest.raises(DecodeError):
        pixel_messages.request(message, MOST)


def length(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


SIZE = len(raw(1).SerializeToString())


@given(
    st.sampled_from([ONE, MANY]),
    st.lists(
        st.tuples(
            st.sampled_from(["set", "drop", "add"]), st.integers(0, 8), st.integers(-14, 24), st.integers(0, 255)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_damaged_request_is_read_as_protobuf_reads_it_or_not_at_all(
    request_: pb.ClassifyRequest, changes: list[tuple[str, int, int, int]]
) -> None:
    message = bytearray(request_.SerializeToString())
    for what, image, offset, byte in changes:
        at = max(0, min(image * (SIZE + 4) + offset, len(message) - 1))
        if what == "set":
            message[at] = byte
        elif what == "drop":
            del message[at]
        else:
            message.insert(at, byte)
    agrees(bytes(message))


def agrees(message: bytes) -> None:
    try:
        expected = as_protobuf(message)
    except DecodeError:
        expected = None
    try:
        found = pixel_messages.request(message, MOST)
    except DecodeError:
        assert expected is None
    else:
        assert found is None or as_read(found) == expected


def test_short_messages_are_not_looked_through() -> None:
    def read(_message: bytes, _most: int) -> Any:
        raise AssertionError

    parse: Callable[[bytes], Any] = pixel_messages.first(read, len, 8192)
    assert parse(bytes(1000)) == 1000


def test_what_no_reader_knows_is_parsed() -> None:
    parse = pixel_messages.first(lambda _message, _most: None, len, 8192)
    assert parse(bytes(1 << 20)) == 1 << 20


def test_a_kept_image_keeps_only_its_own_bytes() -> None:
    found = pixel_messages.request(MANY.SerializeToString(), MOST)
    assert found is not None
    kept = apart(found.images[1])
    assert isinstance(kept, RawImage)
    assert kept.data == pixels(2)
    assert isinstance(kept.data, bytes)
