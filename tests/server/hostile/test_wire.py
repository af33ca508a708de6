"""Calls that are wrong in their headers or in the frame around their message: each ends with a status that says so."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import grpc
import pytest

from tests.server.conftest import TIMEOUT
from tests.server.hostile.conftest import Attacked
from tests.server.hostile.memory import MIB, forget_peak, needs_proc, peak, resident
from tests.server.hostile.wire import (
    CHECK,
    CLASSIFY,
    DESCRIBE,
    REFLECTION,
    STREAM,
    WATCH,
    Wire,
    but,
    call,
    message,
    plain,
)

# An answer to a call that could not be understood. gRPC's own code says INTERNAL where it cannot read what is about the
# message, INVALID_ARGUMENT is ours.
REFUSED = {"INTERNAL", "INVALID_ARGUMENT"}
RESET = "RST INTERNAL_ERROR"

Pack = Callable[[bytes], bytes]
FRAMES: dict[str, tuple[Pack, set[str]]] = {
    "nothing at all": (lambda m: b"", {"INVALID_ARGUMENT"}),
    "a prefix of one byte": (lambda m: message(m)[:1], {"INVALID_ARGUMENT"}),
    "a prefix of four bytes": (lambda m: message(m)[:4], {"INVALID_ARGUMENT"}),
    "a prefix alone": (lambda m: message(m)[:5], {"INVALID_ARGUMENT"}),
    "a message without its last byte": (lambda m: message(m)[:-1], {"INVALID_ARGUMENT"}),
    "a length of one more than there is": (lambda m: message(m, length=len(m) + 1), {"INVALID_ARGUMENT"}),
    "a length of one less than there is": (lambda m: message(m, length=len(m) - 1), REFUSED),
    "a length of ten less than there is": (lambda m: message(m, length=len(m) - 10), REFUSED),
    "a length of 4 GiB": (lambda m: message(m, length=2**32 - 1), {"RESOURCE_EXHAUSTED"}),
    "a length of one more than is allowed": (lambda m: message(m, length=16 * MIB + 1), {"RESOURCE_EXHAUSTED"}),
    "an empty message": (lambda m: message(b""), {"INVALID_ARGUMENT"}),
    # The second is not read.
    "two messages in a call of one": (lambda m: message(m) * 2, {"OK"}),
    "compressed, without saying how": (lambda m: message(m, flag=1), REFUSED),
    "a flag of 2": (lambda m: message(m, flag=2), REFUSED),
    "a flag of 255": (lambda m: message(m, flag=255), REFUSED),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_lies_about_its_message_is_refused(attacked: Attacked, name: str) -> None:
    make, allowed = FRAMES[name]
    with Wire(attacked.target) as wire:
        wire.begin(1, make(attacked.body))
        assert wire.ending(1) in allowed
        assert wire.alive(), "other calls of the connection were lost with it"


@pytest.mark.parametrize("path", [CLASSIFY, STREAM, DESCRIBE, CHECK, WATCH, REFLECTION])
def test_bytes_that_are_no_message_are_refused_by_every_method(attacked: Attacked, path: str) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(b"\xff\xff"), headers=call(path))
        assert wire.ending(1) == "INVALID_ARGUMENT"
        assert wire.alive()


@pytest.mark.parametrize("path", [STREAM, DESCRIBE, CHECK, WATCH, REFLECTION])
@pytest.mark.parametrize("body", [b"\x00", message(b"x", length=2**32 - 1)])
def test_every_method_refuses_a_frame_that_lies(attacked: Attacked, path: str, body: bytes) -> None:
    # A stream that ends within a message ends: there is no one left to tell.
    allowed = REFUSED | {"RESOURCE_EXHAUSTED"} | ({"OK"} if path in (STREAM, REFLECTION) else set())
    with Wire(attacked.target) as wire:
        wire.begin(1, body, headers=call(path))
        assert wire.ending(1) in allowed
        assert wire.alive()


ENCODINGS: dict[str, tuple[str, Pack, set[str]]] = {
    "gzip": ("gzip", gzip.compress, {"OK"}),
    "deflate": ("deflate", zlib.compress, {"OK"}),
    "gzip, cut": ("gzip", lambda m: gzip.compress(m)[:-5], REFUSED),
    # It is seen whether a message is compressed, and what it says of itself is not asked.
    "gzip that is none": ("gzip", lambda m: m, {"OK"}),
    "deflate that is none": ("deflate", lambda m: m, {"OK"}),
    "gzip that is deflate": ("gzip", zlib.compress, {"OK"}),
    "deflate, cut": ("deflate", lambda m: zlib.compress(m)[:-5], REFUSED),
    "identity": ("identity", lambda m: m, {"OK", *REFUSED}),  # it says compressed, and how: not at all
    "snappy": ("snappy", lambda m: m, {"UNIMPLEMENTED", "INTERNAL"}),
    "no name": ("", lambda m: m, {"UNIMPLEMENTED", "INTERNAL"}),
    "two names": ("gzip,deflate", lambda m: m, {"UNIMPLEMENTED", "INTERNAL"}),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_message_is_unpacked_or_refused(attacked: Attacked, name: str) -> None:
    encoding, pack, allowed = ENCODINGS[name]
    with Wire(attacked.target) as wire:
        wire.begin(1, message(pack(attacked.body), flag=1), headers=call(CLASSIFY, ("grpc-encoding", encoding)))
        assert wire.ending(1) in allowed
        assert wire.alive()


@needs_proc
def test_a_message_that_unpacks_to_more_than_allowed_is_refused_before_it_has(attacked: Attacked) -> None:
    forget_peak(attacked.pid)
    before = resident(attacked.pid)
    zeros = bytes(256 * MIB)  # 256 kB on their way
    codes: list[grpc.StatusCode] = []
    with grpc.insecure_channel(attacked.target) as channel:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CLASSIFY)
        # After the attacks before, the server may close a connection as part of a flood; then another one is made.
        while len(codes) < 5 and codes[-1:] in ([], [grpc.StatusCode.UNAVAILABLE]):
            with pytest.raises(grpc.RpcError) as refused:
                send(zeros, timeout=TIMEOUT, compression=grpc.Compression.Gzip, wait_for_ready=True)
            codes.append(refused.value.code())
    assert codes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak(attacked.pid) - before < 100 * MIB


BLANKS = {
    ":path": [
        "/",
        "",
        "Classify",
        "*",
        "//",
        "/a/b",
        f"{CLASSIFY}/x",
        "/glimpse.v1.ImageClassifier/None",
        "/" + "a" * 3000,
    ],
    ":method": ["GET", "PUT", "get", "CONNECT"],
    ":scheme": ["ftp", ""],
    "te": ["gzip", ""],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BLANKS.items() for value in values])
def test_a_call_of_what_there_is_not_is_refused(attacked: Attacked, name: str, value: str) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=but(call(), name, value))
        assert wire.ending(1) in {"UNIMPLEMENTED", "INTERNAL", RESET}
        assert wire.alive()


@pytest.mark.parametrize("name", [":path", ":method", ":scheme", ":authority", "te"])
def test_a_call_without_what_it_must_say_is_refused(attacked: Attacked, name: str) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=but(call(), name, None))
        assert wire.ending(1) in {"INTERNAL", RESET}
        assert wire.alive()


# gRPC takes a call for one whatever its content-type says: there is nothing else on this port.
@pytest.mark.parametrize("value", [None, "", "text/html", "application/grpc+json", "application/grpc-web", "x" * 1000])
def test_a_content_type_of_something_else_does_no_harm(attacked: Attacked, value: str | None) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=but(call(), "content-type", value))
        assert wire.ending(1) in {"OK", "INTERNAL", "HTTP 415"}
        assert wire.alive()


TIMEOUTS = {
    "0n": {"DEADLINE_EXCEEDED"},
    "0S": {"DEADLINE_EXCEEDED"},
    "1n": {"DEADLINE_EXCEEDED"},
    "99999999H": {"OK"},
    # gRPC is generous with these: as it reads them, they are long enough.
    " 1S": {"OK", "INTERNAL"},
    "9" * 400: {"OK", "INTERNAL"},
    **{value: {"INTERNAL"} for value in ["", "1", "S", "1X", "-1S", "1.5S", "0x1S", "1S1S"]},
}


@pytest.mark.parametrize("value", TIMEOUTS)
def test_a_deadline_that_is_none_is_refused(attacked: Attacked, value: str) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=call(CLASSIFY, ("grpc-timeout", value)))
        assert wire.ending(1) in TIMEOUTS[value]
        assert wire.alive()


STRANGE: list[tuple[str | bytes, str | bytes]] = [
    ("x-bin", "!!!"),
    ("x-bin", "a"),
    ("x-bin", "===="),
    ("x-bin", b"\xff\xfe"),
    ("glimpse-client", b"\xff\xfe"),
    ("glimpse-client", b"a\x00b\r\nc"),
    ("glimpse-client-bin", "AAEC"),
    ("x-request-id", b"a\r\nx-injected: 1"),
    ("x-request-id", b"\xff"),
    ("x-request-id", ""),
    ("authorization", b"Bearer \xff\x00"),
    ("x", b"\x00"),
    ("X-Upper", "a"),
    ("", ""),
    (b"x\xc3\xa9", "y"),
    ("x" * 5000, "y"),
    (":status", "200"),
    (":method", "GET"),
    (":path", "/x/y"),
    (":unknown", "x"),
    ("connection", "close"),
    ("transfer-encoding", "chunked"),
    ("content-length", "5"),
    ("grpc-status", "0"),
    ("grpc-message", "%00%zz"),
    ("grpc-status-details-bin", "AAAA"),
    ("grpc-previous-rpc-attempts", "99999999999"),
    ("grpc-accept-encoding", "x" * 2000),
    ("grpc-trace-bin", "AAAA"),
    ("lb-cost-bin", "AAAA"),
]


@pytest.mark.parametrize(("name", "value"), STRANGE, ids=[f"{name!r}-{value!r}"[:40] for name, value in STRANGE])
def test_a_strange_header_does_no_harm(attacked: Attacked, name: str | bytes, value: str | bytes) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=call(CLASSIFY, (name, value)))
        assert wire.ending(1) in {"OK", "INTERNAL", "INVALID_ARGUMENT", "UNIMPLEMENTED", "UNAUTHENTICATED", RESET}
        assert wire.alive()
    assert not any(b"x-injected" in bytes(each.data) for each in wire.frames if hasattr(each, "data"))


def test_an_id_with_a_line_break_reaches_no_log(attacked: Attacked) -> None:
    with Wire(attacked.target) as wire:
        bad = call(DESCRIBE, ("x-request-id", b'smuggled\n{"event": "smuggled"}'))
        wire.begin(1, message(b"\xff"), headers=bad)
        assert wire.ending(1) == "INVALID_ARGUMENT"
    attacked.check_answers()
    assert not any("smuggled" in str(line) for line in [*attacked.running.log, *attacked.running.stray])


def test_pseudo_headers_behind_the_others_do_no_harm(attacked: Attacked) -> None:
    with Wire(attacked.target) as wire:
        wire.begin(1, message(attacked.body), headers=[*call()[4:], *call()[:4]])
        assert wire.ending(1) in {"OK", "INTERNAL", RESET, "RST PROTOCOL_ERROR"}
        assert wire.alive()


@pytest.mark.parametrize(
    "more", [[("x", "y" * 20_000)], [(f"x-{n}", "y") for n in range(20_000)]], ids=["a large one", "many"]
)
def test_headers_beyond_the_limit_are_refused(attacked: Attacked, more: list[tuple[str | bytes, str | bytes]]) -> None:
    with Wire(attacked.target) as wire:
        assert wire.alive()  # both sides have agreed on the limits
        wire.begin(1, message(attacked.body), headers=call(CLASSIFY, *more))
        assert wire.ending(1) == "RESOURCE_EXHAUSTED"
        assert wire.alive()


NOT_HTTP_2 = {
    "nothing": b"",
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0": b"POST / HTTP/1.0\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "half of the greeting": b"PRI * HTTP/2.0\r\n",
    "the greeting with an error": b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
}


@pytest.mark.parametrize("name", NOT_HTTP_2)
def test_who_does_not_speak_http_2_is_closed_to(attacked: Attacked, name: str) -> None:
    answer = plain(attacked.target, NOT_HTTP_2[name])
    # The server's own greeting, and no more than an error behind it: nothing of its insides.
    assert len(answer) < 200
    assert b"Traceback" not in answer
