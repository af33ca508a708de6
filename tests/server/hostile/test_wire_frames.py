"""HTTP/2 that is wrong frame by frame, floods of what is cheap to send, and connections that are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.server.hostile.conftest import Attacked
from tests.server.hostile.memory import MIB, needs_proc, resident
from tests.server.hostile.wire import CLASSIFY, PREFACE, STREAM, WATCH, Wire, call, frame, message

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
MOST = 2**31 - 1

Say = Callable[[Wire], bytes]


def opened(wire: Wire) -> bytes:
    """A call that has begun and sent nothing yet."""
    return wire.headers(1, call())


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", number, value))


def window(stream: int, more: int) -> bytes:
    return frame(WINDOW, 0, stream, struct.pack(">I", more))


# What HTTP/2 calls an error of the connection. gRPC says good-bye or just closes; a call may hear UNAVAILABLE.
FATAL: dict[str, Say] = {
    "a ping of no bytes": lambda w: frame(PING, 0, 0, b""),
    "a ping of seven bytes": lambda w: frame(PING, 0, 0, bytes(7)),
    "a ping of nine bytes": lambda w: frame(PING, 0, 0, bytes(9)),
    "settings of five bytes": lambda w: frame(SETTINGS, 0, 0, bytes(5)),
    "settings of a stream": lambda w: frame(SETTINGS, 0, 1, bytes(6)),
    "an acknowledgement that says more": lambda w: frame(SETTINGS, 1, 0, bytes(6)),
    "a push that is neither on nor off": lambda w: setting(2, 2),
    "a window of 2 GiB": lambda w: setting(4, 2**31) + opened(w),
    "frames of one byte": lambda w: setting(5, 1),
    "frames of 4 GiB": lambda w: setting(5, 2**32 - 1),
    "a reset of three bytes": lambda w: opened(w) + frame(RST, 0, 1, bytes(3)),
    "a window that grows by nothing": lambda w: window(0, 0),
    "a stream's window that grows by nothing": lambda w: opened(w) + window(1, 0),
    "a window update of three bytes": lambda w: frame(WINDOW, 0, 0, bytes(3)),
    "a good-bye of three bytes": lambda w: frame(GOAWAY, 0, 0, bytes(3)),
    "a continuation of nothing": lambda w: frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
    "a continuation of another stream": lambda w: frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 4, 3, b"\x82"),
    "a ping between headers": lambda w: frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, bytes(8)),
    "a frame larger than was agreed on": lambda w: frame(DATA, 0, 1, b"", length=2**24 - 1),
    "headers larger than was agreed on": lambda w: frame(HEADERS, 4, 1, b"", length=2**24 - 1),
    "a header of an index that there is not": lambda w: frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\x7f"),
    "a header of index 0": lambda w: frame(HEADERS, 5, 1, b"\x80"),
    "a header that is cut": lambda w: frame(HEADERS, 5, 1, b"\x40\x0a"),
    "a table of headers of 4 GiB": lambda w: frame(HEADERS, 5, 1, b"\x3f\xe1\xff\xff\xff\x0f"),
    "a header of 4 GiB": lambda w: frame(HEADERS, 5, 1, b"\x40\x7f\xff\xff\xff\xff\x07"),
    "trailers without an end": lambda w: opened(w) + w.headers(1, [("x", "y")]),
}


@pytest.mark.parametrize("name", FATAL)
def test_an_error_of_the_connection_ends_it(attacked: Attacked, name: str) -> None:
    with Wire(attacked.target) as wire:
        wire.send(FATAL[name](wire))
        ending = wire.ending(1, ping=True)
        assert ending == "closed" or ending.startswith(("GOAWAY", "RST")) or ending in {"UNAVAILABLE", "INTERNAL"}
        assert not wire.alive()


# Forbidden as well, or odd, but of no meaning: gRPC passes them over, or ends the stream.
HARMLESS: dict[str, Say] = {
    "data of no stream": lambda w: frame(DATA, 0, 0, b"abc"),
    "data of a stream that there is not": lambda w: frame(DATA, END_STREAM, 7, b"abc"),
    "headers of no stream": lambda w: frame(HEADERS, 5, 0, b"\x82"),
    "headers of a stream of the server's": lambda w: w.headers(2, call(), end=True),
    "no headers": lambda w: frame(HEADERS, 5, 1, b""),
    "streams backwards": lambda w: w.headers(5, call(), end=True) + w.headers(3, call(), end=True),
    "a stream twice": lambda w: w.headers(1, call(), end=True) + w.headers(1, call(), end=True),
    "data behind the end": lambda w: w.headers(1, call(), end=True) + frame(DATA, 1, 1, b"xyz"),
    "a ping of a stream": lambda w: frame(PING, 0, 1, bytes(8)),
    "a setting that there is not": lambda w: setting(99, 5),
    "no table of headers": lambda w: setting(1, 0),
    "a table of headers of 4 GiB, for the answers": lambda w: setting(1, 2**32 - 1),
    "no streams": lambda w: setting(3, 0),
    "no headers in the answers": lambda w: setting(6, 0),
    "a reset of no stream": lambda w: frame(RST, 0, 0, bytes(4)),
    "a reset of a stream that there is not": lambda w: frame(RST, 0, 9, bytes(4)),
    "a window that overflows": lambda w: window(0, MOST) + window(0, MOST),
    "a stream's window that overflows": lambda w: opened(w) + window(1, MOST) * 2,
    "a window of a stream that there is not": lambda w: window(99, 1),
    "a stream that waits for itself": lambda w: frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 5)),
    "a priority of four bytes": lambda w: frame(PRIORITY, 0, 1, bytes(4)),
    "a call that waits for itself": lambda w: frame(HEADERS, 0x25, 1, struct.pack(">IB", 1, 5) + b"\x82"),
    "a push by the client": lambda w: frame(PUSH, 4, 1, struct.pack(">I", 2) + b"\x82"),
    "a good-bye of a stream": lambda w: frame(GOAWAY, 0, 1, bytes(8)),
    "a long good-bye": lambda w: frame(GOAWAY, 0, 0, bytes(8) + b"x" * 16_000),
    "a frame of a kind that there is not": lambda w: frame(0x7F, 0xFF, 0, b"abc"),
    "such a frame of a stream": lambda w: frame(0x7F, 0xFF, 77, b"abc"),
    "more padding than there is": lambda w: opened(w) + frame(DATA, END_STREAM | PADDED, 1, b"\xff" + bytes(10)),
    "trailers with a path": lambda w: opened(w) + w.headers(1, [(":path", "y")], end=True),
    "letters that Huffman has not": lambda w: frame(HEADERS, 5, 1, b"\x40\x81\xff\x81\xff"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_frame_of_no_meaning_does_no_harm(attacked: Attacked, name: str) -> None:
    with Wire(attacked.target) as wire:
        assert wire.send(HARMLESS[name](wire))
        ending = wire.ending(1, ping=True)
        allowed = {"waits", "closed", "INTERNAL", "INVALID_ARGUMENT", "UNAVAILABLE", "CANCELLED"}
        assert ending in allowed or ending.startswith(("GOAWAY", "RST"))


@pytest.mark.parametrize("greeting", [b"", PREFACE[:-1], PREFACE + PREFACE, PREFACE + frame(PING, 0, 0, bytes(8))])
def test_a_greeting_that_is_none_is_not_answered(attacked: Attacked, greeting: bytes) -> None:
    with Wire(attacked.target, greeted=False) as wire:
        wire.send(greeting, wire.headers(1, call()), wire.data(1, message(attacked.body)))
        ending = wire.ending(1, ping=True)
        assert ending == "closed" or ending.startswith("GOAWAY")


# So many of each. What a server would have to keep or to answer for each of them adds up, if it lets it.
FLOODS: dict[str, Callable[[Wire, int, bytes], bytes]] = {
    "pings": lambda w, n, m: frame(PING, 0, 0, bytes(8)) * n,
    "settings": lambda w, n, m: setting(4, 65_535) * n,
    "priorities": lambda w, n, m: b"".join(frame(PRIORITY, 0, 2 * i + 1, struct.pack(">IB", 0, 1)) for i in range(n)),
    "window updates": lambda w, n, m: window(0, 1) * n,
    "data of no bytes": lambda w, n, m: opened(w) + frame(DATA, 0, 1, b"") * n,
    "data that is padding": lambda w, n, m: opened(w) + frame(DATA, PADDED, 1, b"\x05" + bytes(5)) * n,
    "empty messages of a stream": lambda w, n, m: w.headers(1, call(STREAM)) + w.data(1, message(b"") * n, end=False),
    "continuations": lambda w, n, m: frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b") * n,
    "continuations of nothing": lambda w, n, m: frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"") * n,
    "calls that are reset": lambda w, n, m: b"".join(
        w.headers(2 * i + 1, call()) + frame(RST, 0, 2 * i + 1, bytes(4)) for i in range(n)
    ),
    "good calls that are reset": lambda w, n, m: b"".join(
        w.headers(2 * i + 1, call()) + w.data(2 * i + 1, message(m)) + frame(RST, 0, 2 * i + 1, bytes(4))
        for i in range(n // 10)
    ),
    "calls that the server must reset": lambda w, n, m: b"".join(
        w.headers(2 * i + 1, call()) + window(2 * i + 1, 0) for i in range(n)
    ),
    "watches": lambda w, n, m: b"".join(
        w.headers(2 * i + 1, call(WATCH)) + w.data(2 * i + 1, message(b"")) for i in range(n)
    ),
    "frames of a kind that there is not": lambda w, n, m: frame(0x7F, 0, 0, bytes(20)) * n,
}


def flood(attacked: Attacked, name: str, count: int) -> None:
    with Wire(attacked.target) as wire:
        wire.send_or_hear(FLOODS[name](wire, count, attacked.body))
        # Whether the connection survives it is the server's choice. Meanwhile it answers others.
        attacked.check_answers()
        wire.cut()


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_on_one_connection_leaves_the_others_alone(attacked: Attacked, name: str) -> None:
    flood(attacked, name, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_a_large_flood_leaves_the_others_alone(attacked: Attacked, name: str) -> None:
    flood(attacked, name, 100_000)


@needs_proc
@pytest.mark.parametrize("path", [CLASSIFY, STREAM])
def test_a_caller_who_takes_no_answer_holds_no_more_than_his_calls(attacked: Attacked, path: str) -> None:
    before = resident(attacked.pid)
    with Wire(attacked.target, settings={4: 0}) as wire:  # a window of nothing
        body = attacked.body if path == CLASSIFY else attacked.piece
        for stream in range(1, 201, 2):
            wire.send(wire.headers(stream, call(path)), wire.data(stream, message(body), end=path == CLASSIFY))
        assert wire.alive()
        attacked.check_answers()
        assert resident(attacked.pid) - before < 100 * MIB
        wire.cut()


def test_a_connection_may_be_cut_anywhere(attacked: Attacked) -> None:
    with Wire(attacked.target, greeted=False) as wire:
        said = PREFACE + frame(SETTINGS, 0, 0, b"") + wire.headers(1, call()) + wire.data(1, message(attacked.body))
    assert len(said) > 1000
    for at in [*range(0, 400, 7), *range(400, len(said), 331), len(said)]:
        for cut in (False, True):
            with Wire(attacked.target, greeted=False) as wire:
                wire.send(said[:at])
                if cut:
                    wire.cut()
