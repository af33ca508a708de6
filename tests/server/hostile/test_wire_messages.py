"""Messages of chance, and good ones with wrong bytes in them: each gets an answer or a refusal with a reason."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from threading import Event

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from glimpse.server.errors import Reason
from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.hostile.conftest import Attacked
from tests.server.hostile.wire import CHECK, CLASSIFY, DESCRIBE, REFLECTION, STREAM, WATCH
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

Send = Callable[[str, bytes], str]
METHODS = [CLASSIFY, STREAM, DESCRIBE, CHECK, WATCH, REFLECTION]
# UNIMPLEMENTED and the like are of no message's making; INTERNAL and UNKNOWN would be ours.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
REASONS = {"", *(reason.value for reason in Reason)} - {"INTERNAL"}


@pytest.fixture(scope="module")
def send(attacked: Attacked) -> Iterator[Send]:
    """Send one message to a method, and tell how the call ended."""
    with grpc.insecure_channel(attacked.target) as channel:
        calls: dict[str, grpc.StreamStreamMultiCallable[bytes, bytes]]
        calls = {path: channel.stream_stream(path) for path in METHODS}

        def one(path: str, message: bytes) -> str:
            call = calls[path](iter([message]), timeout=TIMEOUT)
            try:
                answer = next(call, None)
                if path == WATCH:
                    call.cancel()  # it would watch on
            except grpc.RpcError as error:
                return error.code().name if isinstance(error, grpc.Call) else repr(error)
            if path in (CLASSIFY, STREAM) and answer is not None:
                check(path, answer)
            return "OK"

        yield one


def check(path: str, answer: bytes) -> None:
    """Fail unless an answer gives each image predictions or a reason."""
    if path == STREAM:
        piece = pb.ClassifyStreamResponse.FromString(answer)
        assert piece.error.reason in REASONS
        results = piece.response.results
    else:
        results = pb.ClassifyResponse.FromString(answer).results
    for result in results:
        assert not (result.predictions and result.error.reason)
        assert result.error.reason in REASONS


def varint(number: int) -> bytes:
    """As protobuf writes it, and longer than it may be where the number is."""
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, kind: int, payload: bytes) -> bytes:
    """Tag and payload; kind 2 gets its length."""
    return varint(number << 3 | kind) + (varint(len(payload)) if kind == 2 else b"") + payload


def nested(depth: int, number: int = 2) -> bytes:
    """Messages in messages."""
    inner = b""
    for _ in range(depth):
        inner = field(number, 2, inner)
    return inner


def groups(depth: int) -> bytes:
    """Groups in groups, which the parser passes over one by one."""
    return varint(1000 << 3 | 3) * depth + varint(1000 << 3 | 4) * depth


MADE: dict[str, bytes] = {
    "messages 100 deep": nested(100),
    "messages 1000 deep": nested(1000),
    "messages in a stream's, 300 deep": field(2, 2, nested(300)),
    "unknown messages 5000 deep": nested(5000, 99),
    "groups 50 deep": groups(50),
    "groups 10,000 deep": groups(10_000),
    "a group without an end": varint(1000 << 3 | 3),
    "an end without a group": varint(1000 << 3 | 4),
    "field 0": field(0, 2, b"x"),
    "the last field that there can be": field(2**29 - 1, 2, b"x"),
    "a field beyond it": field(2**29, 2, b"x"),
    "wire type 6": b"\x16",
    "wire type 7": b"\x17",
    "a varint of eleven bytes": b"\x08" + b"\xff" * 10 + b"\x01",
    "a varint without an end": b"\x08" + b"\xff" * 9,
    "a length beyond the message": b"\x12\xff\xff\xff\xff\x07abc",
    "a length of 2^63": b"\x12" + varint(2**63) + b"abc",
    "a name that is not UTF-8": field(1, 2, field(1, 2, b"\xff\xfe\xc0\x80")),
    "a name of half a surrogate": field(1, 2, field(1, 2, b"\xed\xa0\x80")),
    "a name of zeros": field(1, 2, field(1, 2, bytes(1000))),
    "a name of 100 kB": field(1, 2, field(1, 2, b"n" * 100_000)),
    "a name with a line break": field(1, 2, field(1, 2, b'a\r\nx-injected: 1\n{"event": "injected"}')),
    "a name beyond ASCII": field(1, 2, field(1, 2, "网络\u202e\U0001f600".encode())),
    "a geometry of 100 kB": field(2, 2, field(1, 2, b"x")) + field(3, 2, field(3, 2, b"g" * 100_000)),
    "100,000 unknown fields": field(99, 0, b"\x01") * 100_000,
    "100,000 empty images": field(2, 2, b"") * 100_000,
    "100,000 options": field(3, 2, field(1, 0, b"\x01")) * 100_000,
    "an image of both kinds": field(2, 2, field(1, 2, b"x") + field(2, 2, field(1, 0, b"\x01"))),
    "a top_k of 2^64 - 1": field(2, 2, field(1, 2, b"x")) + field(3, 2, field(1, 0, varint(2**64 - 1))),
    "a probability that is none": field(2, 2, field(1, 2, b"x"))
    + field(3, 2, field(2, 5, struct.pack("<f", float("nan")))),
    "a probability without end": field(2, 2, field(1, 2, b"x"))
    + field(3, 2, field(2, 5, struct.pack("<f", float("-inf")))),
    "raw pixels of 2^32 - 1 rows": field(
        2, 2, field(2, 2, field(1, 0, varint(2**32 - 1)) + field(2, 0, varint(2**32 - 1)) + field(3, 2, b"abc"))
    ),
    "raw pixels of no row": field(2, 2, field(2, 2, b"")),
    "the field of an image as a number": field(2, 0, b"\x05"),
}


@pytest.mark.parametrize("path", METHODS)
def test_a_message_made_to_harm_gets_an_answer_or_a_refusal(send: Send, path: str) -> None:
    ends = {name: send(path, body) for name, body in MADE.items()}
    assert {name: code for name, code in ends.items() if code not in ALLOWED} == {}
    # And the same as the message within: an image, or the request of a stream.
    ends = {name: send(path, field(2, 2, body)) for name, body in MADE.items()}
    assert {name: code for name, code in ends.items() if code not in ALLOWED} == {}


tags = st.builds(field, st.integers(0, 12), st.sampled_from([0, 1, 2, 2, 2, 5, 3, 4, 6]), st.binary(max_size=12))
messages = st.recursive(
    st.lists(st.one_of(tags, st.binary(max_size=6)), max_size=6).map(b"".join),
    lambda inner: st.builds(lambda n, each: b"".join(field(n, 2, e) for e in each), st.integers(1, 4), st.lists(inner)),
    max_leaves=12,
)
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)


def fuzz(send: Send, good: bytes, examples: int) -> None:
    """Send that many of each kind."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        database=None,
    )

    @quiet
    @given(st.sampled_from(METHODS), messages)
    def chance(path: str, body: bytes) -> None:
        assert send(path, body) in ALLOWED

    @quiet
    @given(st.sampled_from([CLASSIFY, STREAM]), changes, st.floats(0, 1))
    def mutated(path: str, wrong: list[tuple[float, int]], kept: float) -> None:
        body = bytearray(good if path == CLASSIFY else field(1, 2, b"id") + field(2, 2, good))
        for at, value in wrong:
            # Half of them at the beginning, where the lengths are.
            body[int(at * (len(body) if value % 2 else 24))] = value
        assert send(path, bytes(body[: int(len(body) * kept)] if kept < 0.3 else body)) in ALLOWED

    chance()
    mutated()


@pytest.mark.parametrize("attacked", ONE_PROCESS_AND_TWO_WORKERS, indirect=True)
@pytest.mark.parametrize("examples", [80, pytest.param(200, marks=pytest.mark.slow)])  # each some 20 ms, twice
def test_messages_of_chance_get_an_answer_or_a_refusal(attacked: Attacked, send: Send, examples: int) -> None:
    fuzz(send, attacked.body, examples)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 11 ms a message
def test_30_000_messages_of_chance_get_an_answer_or_a_refusal(attacked: Attacked, send: Send) -> None:
    fuzz(send, attacked.body, 15_000)


@pytest.mark.parametrize("attacked", ONE_PROCESS_AND_TWO_WORKERS, indirect=True)
def test_nothing_of_a_message_reaches_the_log_as_a_line_of_its_own(attacked: Attacked, send: Send) -> None:
    running: RunningServer = attacked.running
    for path in METHODS:
        send(path, MADE["a name with a line break"])
    attacked.check_answers()
    assert [line for line in running.log if line["event"] == "injected"] == []
    assert [line for line in running.stray if "injected" in line] == []


@pytest.mark.parametrize("path", [STREAM, WATCH, REFLECTION])
def test_callers_who_leave_between_two_answers_leave_no_trace(attacked: Attacked, path: str) -> None:
    """What runs on when its call has gone must not ask gRPC about that call: it would crash the process."""
    request = {WATCH: b"", REFLECTION: field(7, 2, b""), STREAM: attacked.piece}[path]
    with grpc.insecure_channel(attacked.target) as channel:
        for _ in range(100):
            more = Event()

            def pieces(more: Event = more) -> Iterator[bytes]:
                yield request
                more.wait(TIMEOUT)

            begin: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
            call = begin(pieces() if path != WATCH else iter([request]), timeout=TIMEOUT)
            assert next(call) is not None
            call.cancel()
            more.set()
