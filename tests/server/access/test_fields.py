"""The fields of a message are counted before it is parsed, whatever they are and whatever they lie within."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.grpc import servicer
from glimpse.server.grpc.message_fields import EACH_IMAGE, LEAST, Fields, bounded, exceeds
from glimpse.server.open_inference import open_inference_pb2
from glimpse.v1 import classifier_pb2 as pb
from tests.server.access.inside import Inside, channel, told
from tests.server.conftest import TIMEOUT

Start = Callable[..., Inside]
_KINDS = pb.DESCRIPTOR.message_types_by_name
PIECE = Fields(_KINDS["ClassifyStreamRequest"])
REQUEST = Fields(_KINDS["ClassifyRequest"])
SIZE = 2_000_000


class Made(NamedTuple):
    """Bytes of a message, and how many of them are fields."""

    data: bytes
    fields: int


def number(value: int, longer: int = 0) -> bytes:
    """A varint, in more bytes than it needs."""
    least = max(1, -(-value.bit_length() // 7)) + longer
    return bytes((value >> 7 * at & 0x7F) | (0x80 if at < least - 1 else 0) for at in range(least))


def tag(field: int, kind: int) -> bytes:
    return number(field << 3 | kind)


def contents(field: int, data: bytes) -> Made:
    head = tag(field, 2) + number(len(data))
    return Made(head + data, len(head))


def whole(data: bytes) -> Made:
    return Made(data, len(data))


def joined(parts: list[Made]) -> Made:
    return Made(b"".join(part.data for part in parts), sum(part.fields for part in parts))


def within(field: int, inside: Made) -> Made:
    head = tag(field, 2) + number(len(inside.data))
    return Made(head + inside.data, len(head) + inside.fields)


def group(field: int, inside: Made) -> Made:
    return Made(tag(field, 3) + inside.data + tag(field, 4), len(tag(field, 3)) + len(tag(field, 4)) + inside.fields)


UNKNOWN = st.integers(100, 1000)
SIMPLE = st.one_of(
    st.builds(contents, UNKNOWN, st.binary(max_size=300)),
    st.builds(lambda field, value: whole(tag(field, 0) + number(value)), UNKNOWN, st.integers(0, 2**64 - 1)),
    st.builds(lambda field: whole(tag(field, 0) + number(1, longer=3)), UNKNOWN),
    st.builds(lambda field, data: whole(tag(field, 1) + data), UNKNOWN, st.binary(min_size=8, max_size=8)),
    st.builds(lambda field, data: whole(tag(field, 5) + data), UNKNOWN, st.binary(min_size=4, max_size=4)),
    # In a group nothing is known: not even what has the number of a field that is.
    st.builds(lambda field, inner, data: group(field, contents(inner, data)), UNKNOWN, st.integers(1, 9), st.binary()),
    st.builds(lambda field, other, data: group(field, group(other, contents(2, data))), UNKNOWN, UNKNOWN, st.binary()),
)


def messages(*own: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    return st.lists(st.one_of(SIMPLE, *own), max_size=12).map(joined)


RAW = messages(st.builds(contents, st.just(3), st.binary(max_size=300)))
IMAGE = messages(st.builds(contents, st.just(1), st.binary(max_size=300)), st.builds(within, st.just(2), RAW))
SELECTOR = messages(st.builds(contents, st.integers(1, 2), st.just(b"a name")))
# As long as each other, and equal for a while: none may be taken for one like the one before.
LIKE = st.sampled_from(
    [
        joined([contents(1, b"abcd"), *rest])
        for rest in ([], [whole(b"\x78\x01" * 3)], [contents(15, b"\x78\x00\x78\x00")], [within(2, contents(3, b"12"))])
    ]
)
WHOLE = messages(
    st.lists(LIKE, max_size=9).map(lambda images: joined([within(2, image) for image in images])),
    st.builds(lambda image, times: joined([within(2, image)] * times), IMAGE, st.integers(1, 9)),
    st.builds(within, st.just(1), SELECTOR),
    st.builds(within, st.just(2), IMAGE),
    st.builds(within, st.just(3), SIMPLE),
)
PIECES = messages(st.builds(contents, st.just(1), st.just(b"id")), st.builds(within, st.just(2), WHOLE))


@given(PIECES)
def test_all_bytes_count_but_what_fields_contain(made: Made) -> None:
    pb.ClassifyStreamRequest.FromString(made.data)  # it is one
    assert not exceeds(made.data, PIECE, made.fields)
    assert made.fields == 0 or exceeds(made.data, PIECE, made.fields - 1)


@given(st.one_of(st.binary(), PIECES.map(lambda made: made.data[: len(made.data) * 2 // 3])))
def test_bytes_that_are_no_message_are_no_error(data: bytes) -> None:
    exceeds(data, PIECE, 0)


HARMFUL = {
    "empty images": b"\x12\x00" * (SIZE // 2),
    "empty pixels in one image": within(2, within(2, whole(b"\x12\x00" * (SIZE // 2)))).data,
    "unknown numbers": b"\x78\x00" * (SIZE // 2),
    "unknown texts": b"\x7a\x00" * (SIZE // 2),
    "groups side by side": b"\x7b\x7c" * (SIZE // 2),
    "groups within groups": b"\x7b" * 90 + b"\x78\x00" * (SIZE // 2) + b"\x7c" * 90,
    "names of a model": b"\x0a\x00" * (SIZE // 2),
    "a group that hides what follows": group(15, contents(2, b"\x07" * 9)).data + b"\x12\x00" * (SIZE // 2),
    "a photo before": contents(15, bytes(SIZE)).data + b"\x12\x00" * (SIZE // 2),
    "lengths in too many bytes": (b"\x12" + number(0, longer=3)) * (SIZE // 5),
    "tags in too many bytes": (number(18, longer=3) + b"\x00") * (SIZE // 5),
}


@pytest.mark.parametrize("message", HARMFUL.values(), ids=HARMFUL.keys())
def test_a_message_of_a_million_fields_is_refused_before_it_is_parsed(message: bytes) -> None:
    parsed: list[bytes] = []
    parse = bounded(parsed.append, descriptor_pool.Default(), "glimpse.v1.ImageClassifier.Classify")
    with pytest.raises(InvalidRequestError, match="too many fields") as refused:
        parse(message)
    assert refused.value.reason is Reason.MALFORMED_MESSAGE
    assert parsed == []


def test_a_number_without_end_is_not_read_to_its_end() -> None:
    """Nor does a parser: else the time would grow with the square of its length."""
    message = b"\x12" + b"\xff" * 16_000_000
    assert not exceeds(message, REQUEST, LEAST)
    with pytest.raises(DecodeError):
        pb.ClassifyRequest.FromString(message)


@pytest.mark.parametrize("images", [1, 64, 10_000])
def test_whatever_a_request_may_hold_is_within_the_limit(images: int) -> None:
    raw = pb.Image(raw=pb.RawPixels(height=2**32 - 1, width=2**32 - 1, data=bytes(200)))
    request = pb.ClassifyRequest(
        images=[raw] * images,
        model=pb.ModelSelector(name="n" * 10_000, version="v" * 10_000),
        options=pb.ClassifyOptions(top_k=5, min_probability=0.5, geometry="g" * 10_000),
    )
    piece = pb.ClassifyStreamRequest(id="i" * 10_000, request=request)
    assert not exceeds(piece.SerializeToString(), PIECE, max(LEAST, images * EACH_IMAGE))


def test_a_million_images_cost_no_object_each(inside: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where the parser may see them, nor where it may not."""
    made: list[pb.Image] = []
    monkeypatch.setattr(servicer, "_image", made.append)
    running = inside()
    with channel(running.target) as caller:
        call: Any = caller.unary_unary("/glimpse.v1.ImageClassifier/Classify")
        assert refused_for(lambda: call(b"\x12\x00" * 30_000, timeout=TIMEOUT)) == "TOO_MANY_IMAGES"
        assert refused_for(lambda: call(b"\x12\x00" * 1_000_000, timeout=TIMEOUT)) == "MALFORMED_MESSAGE"
        pieces: Any = caller.stream_stream("/glimpse.v1.ImageClassifier/ClassifyStream")
        piece = within(2, whole(b"\x12\x00" * 1_000_000)).data
        assert refused_for(lambda: list(pieces(iter([piece]), timeout=TIMEOUT))) == "MALFORMED_MESSAGE"
    assert made == []


def refused_for(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return told(refused.value)


def test_of_packed_numbers_half_a_megabyte_may_come() -> None:
    """Parsed, they are eight times as large; of bytes as many may come as a message holds."""
    kind = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name["ModelInfer"]
    fields = Fields(kind.input_type)
    request = open_inference_pb2.ModelInferRequest(raw_input_contents=[bytes(8 << 20)])
    assert not exceeds(request.SerializeToString(), fields, LEAST)
    for contents in ("uint_contents", "int64_contents", "bool_contents"):
        for numbers, refused in ((400_000, False), (600_000, True)):
            request = open_inference_pb2.ModelInferRequest()
            getattr(request.inputs.add().contents, contents).extend([1] * numbers)
            assert exceeds(request.SerializeToString(), fields, LEAST) == refused
    request = open_inference_pb2.ModelInferRequest()
    request.inputs.add().contents.fp32_contents.extend([1.0] * 600_000)
    assert not exceeds(request.SerializeToString(), fields, LEAST), "these stay as large as they are"
