"""What a worker and an engine say to each other over their socket: records of fixed size, some with a text behind.

Numbers are in the processor's own order, because both ends run on one machine. A stream may be cut anywhere; `parse`
takes the records that are whole. Both ends are processes of one server, so a record that cannot be is a defect, for
which the connection is given up.

    hello   worker -> engine  with the arena's file beside it: its slots, and the bytes of each
    lane    worker -> engine  from now on the number means that lane; a number may be used again
    submit  worker -> engine  the pixels are in the slot, which belongs to the engine until it says otherwise
    cancel  worker -> engine  nobody waits for it any more
    answer  engine -> worker  the outputs are in the slot, which is the worker's again
    refusal engine -> worker  there is an error instead, or (`CANCELLED`) nothing; the slot is the worker's again
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from glimpse.server.errors import (
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    Reason,
    ServiceError,
    UnavailableError,
    defect,
)
from glimpse.server.fair_queue import Lane

VERSION = 1
_LONGEST = 65535  # bytes of a text

_HELLO, _LANE, _SUBMIT, _CANCEL, ANSWER, _REFUSAL = range(1, 7)
_hello = struct.Struct("=BBHIQ")  # kind, version, -, slots, bytes of a slot
_lane = struct.Struct("=BBHIHH")  # kind, -, priority, number, bytes of the party, bytes of the name
_submit = struct.Struct("=BBHIIIQdd")  # kind, -, -, slot, lane, outputs, ticket, deadline, since
_cancel = struct.Struct("=BBHIQ")  # kind, -, -, slot, ticket
_answer = struct.Struct("=BBHIQQdd")  # kind, -, -, images in the batch, ticket, batch, queued, computed
_refusal = struct.Struct("=BBBBIQd")  # kind, kind of error, reason, -, bytes of the message, ticket, retry after

_HEADS = {
    _HELLO: _hello,
    _LANE: _lane,
    _SUBMIT: _submit,
    _CANCEL: _cancel,
    ANSWER: _answer,
    _REFUSAL: _refusal,
}
ANSWER_BYTES = _answer.size
_REASONS = tuple(Reason)
_OVERLOADED, _UNAVAILABLE, _DEADLINE, _INTERNAL, _NOTHING = range(5)
_KINDS: tuple[tuple[type[ServiceError], int], ...] = (
    (OverloadedError, _OVERLOADED),
    (UnavailableError, _UNAVAILABLE),
    (DeadlineExceededError, _DEADLINE),
    (InternalError, _INTERNAL),
)


class Hello(NamedTuple):
    """The first record of a connection."""

    version: int
    slots: int
    slot_bytes: int


class LaneNamed(NamedTuple):
    """A number for a lane."""

    number: int
    lane: Lane


class Submit(NamedTuple):
    """An image to be computed."""

    slot: int
    lane: int
    outputs: int  # mask of 32 bits, bit i for the i-th name
    ticket: int  # never used twice in a connection
    deadline: float  # on the clock of `time.monotonic`; infinite: none
    since: float


class Cancel(NamedTuple):
    """An image that nobody waits for."""

    ticket: int


class Answered(NamedTuple):
    """An image whose outputs are in its slot."""

    batch_size: int
    ticket: int
    batch: int
    queue_seconds: float
    compute_seconds: float


class Refused(NamedTuple):
    """An image that has no outputs."""

    ticket: int
    error: ServiceError | None  # None: it was cancelled


Record = Hello | LaneNamed | Submit | Cancel | Answered | Refused


def hello(slots: int, slot_bytes: int) -> bytes:
    """The first record of a connection."""
    return _hello.pack(_HELLO, VERSION, 0, slots, slot_bytes)


def lane(number: int, named: Lane) -> bytes:
    """A number for a lane; too long a text is cut."""
    who, name = (text.encode("utf-8", "surrogatepass")[:_LONGEST] for text in (named.who, named.name))
    return _lane.pack(_LANE, 0, named.priority, number, len(who), len(name)) + who + name


def submit(slot: int, lane: int, outputs: int, ticket: int, deadline: float | None, since: float) -> bytes:  # noqa: PLR0917 - the fields of the record
    """An image to be computed."""
    return _submit.pack(_SUBMIT, 0, 0, slot, lane, outputs, ticket, math.inf if deadline is None else deadline, since)


def cancel(ticket: int) -> bytes:
    """Nobody waits for that image."""
    return _cancel.pack(_CANCEL, 0, 0, 0, ticket)


def answers(
    tickets: Iterable[int], batch_size: int, batch: int, queue_seconds: Iterable[float], compute_seconds: float
) -> bytes:
    """Images of one batch whose outputs are in their slots."""
    pack = _answer.pack
    found = zip(tickets, queue_seconds, strict=True)
    return b"".join([pack(ANSWER, 0, 0, batch_size, each, batch, queued, compute_seconds) for each, queued in found])


def answer(ticket: int, batch_size: int, batch: int, queue_seconds: float, compute_seconds: float) -> bytes:
    """An image whose outputs are in its slot."""
    return _answer.pack(ANSWER, 0, 0, batch_size, ticket, batch, queue_seconds, compute_seconds)


def refusal(ticket: int, error: BaseException | None) -> bytes:
    """An image that has none; None: it was cancelled. An error that no caller is to see becomes a defect of ours."""
    if error is None:
        return _refusal.pack(_REFUSAL, _NOTHING, 0, 0, 0, ticket, 0.0)
    kind = next((number for each, number in _KINDS if type(error) is each), None)
    told = error if kind is not None and isinstance(error, ServiceError) else defect()
    text = told.message.encode("utf-8", "replace")[:_LONGEST]
    after = math.nan if told.retry_after is None else told.retry_after
    reason = _REASONS.index(told.reason)
    return _refusal.pack(_REFUSAL, _INTERNAL if kind is None else kind, reason, 0, len(text), ticket, after) + text


_Fields = tuple[Any, ...]
# Bytes of the text behind a record, and the record; by its kind.
_TEXTS: dict[int, Callable[[_Fields], int]] = {
    _LANE: lambda fields: fields[4] + fields[5],
    _REFUSAL: lambda fields: fields[4],
}
_MADE: dict[int, Callable[[_Fields, memoryview], Record]] = {
    _HELLO: lambda fields, _: Hello(fields[1], fields[3], fields[4]),
    _LANE: lambda fields, text: LaneNamed(
        fields[3], Lane(_text(text[: fields[4]]), _text(text[fields[4] :]), fields[2])
    ),
    _CANCEL: lambda fields, _: Cancel(fields[4]),
    _REFUSAL: lambda fields, text: Refused(fields[5], _error(fields[1], fields[2], fields[6], text)),
}
# What comes for each image has no text, and its fields are those behind the first three.
_PLAIN: dict[int, type[Submit | Answered]] = {_SUBMIT: Submit, ANSWER: Answered}
_PLAIN_FIELDS = 3


def parse(data: memoryview) -> tuple[list[Record], int]:
    """The whole records at the beginning of `data`, and how many bytes they take.

    Raises:
        ValueError: a record is none of those above.
    """
    found: list[Record] = []
    begin, end = 0, len(data)
    while begin < end:
        kind = data[begin]
        head = _HEADS.get(kind)
        if head is None:
            raise ValueError(f"there is no record of kind {kind}")
        text = after = begin + head.size
        if after > end:
            break
        plain = _PLAIN.get(kind)
        if plain is not None:
            begin += _take_plain(found, plain, head, data[begin:])
            continue
        fields = head.unpack_from(data, begin)
        if kind in _TEXTS:
            after += _TEXTS[kind](fields)
            if after > end:
                break
        found.append(_MADE[kind](fields, data[text:after]))
        begin = after
    return found, begin


def _take_plain(found: list[Record], plain: type[Submit | Answered], head: struct.Struct, data: memoryview) -> int:
    """Append all whole records of one kind that follow one another at the beginning; returns how many bytes they take.

    Hundreds of them may come at once: this takes a third of the time of looking at one after the other.
    """
    kinds = bytes(data[:: head.size])
    alike = len(kinds) - len(kinds.lstrip(kinds[:1]))
    used = min(alike, len(data) // head.size) * head.size
    new = tuple.__new__  # a record's own `__new__` takes twice as long
    found += [new(plain, fields[_PLAIN_FIELDS:]) for fields in head.iter_unpack(data[:used])]
    return used


def _text(data: memoryview) -> str:
    # Replaced: a text that was cut may end within a character.
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return str(data, "utf-8", "replace")


def _error(kind: int, reason: int, after: float, text: memoryview) -> ServiceError | None:
    """The error that a refusal tells of.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == _NOTHING:
        return None
    if reason >= len(_REASONS) or kind > _INTERNAL:
        raise ValueError(f"there is no error of kind {kind} with reason {reason}")
    message, why = _text(text), _REASONS[reason]
    if kind == _DEADLINE:
        return DeadlineExceededError(message, reason=why)
    if kind == _INTERNAL:
        return InternalError(message)
    made = OverloadedError if kind == _OVERLOADED else UnavailableError
    return made(why, message, retry_after=None if math.isnan(after) else after)


class Inbox:
    """The bytes of a connection that have come, as records; what is not whole waits for the rest."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes | memoryview) -> list[Record]:
        """The records that `data` completes.

        Raises:
            ValueError: it holds something that is no record.
        """
        whole = memoryview(self._rest + bytes(data) if self._rest else data)
        found, used = parse(whole)
        self._rest = bytes(whole[used:])
        return found
