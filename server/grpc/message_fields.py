"""What a message costs to be parsed, told before it is: its fields cost, and what they contain is only copied.

Two bytes are enough for a field, and for a message within the message, each of which is an object of its own. So a
message of 16 MiB, to which 16 kB unpack, can be eight million of them. The parser holds the event loop until it is done
with all, in any thread. A request has a few fields for each image. So what is not contents is counted, in the wire
format (https://protobuf.dev/programming-guides/encoding), and a message with too much of it is never parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from glimpse.server.errors import InvalidRequestError, Reason

LEAST = 8 << 10  # bytes of fields that any message may have: they are counted in 3 ms, and parsed in a tenth of that
_SHORT = 64 << 10  # bytes of a message that is parsed in as little time, whatever is in it
EACH_IMAGE = 32  # bytes of fields that one may have; with two lengths of five bytes and two numbers it has 24
# A packed array of small numbers becomes four or eight times as large when it is parsed, and what is made of it costs
# time for each. So of its bytes one in so many counts: half a megabyte of them is the most that a message may have.
_PACKED = 64

# What follows a tag: a number in as many bytes as it needs, contents behind their length, a number of so many bytes, or
# one group more or less that the next fields are in.
_VARINT, CONTENTS, _FIXED, _GROUPS = 0, 2, {1: 8, 5: 4}, {3: 1, 4: -1}
_VARINTS = frozenset(
    {
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)
_MORE = 0x80  # the bit of a varint's byte that says that it has another one
_LONGEST = 64  # bits of a varint


class Fields:
    """Of one type of messages: which of its fields are messages themselves, and which are arrays of numbers."""

    def __init__(self, kind: Descriptor, known: dict[str, Fields] | None = None) -> None:
        """Learn the type; `known` are those that it is within."""
        known = {} if known is None else known
        known[kind.full_name] = self
        self.messages: dict[int, Fields] = {}  # by number
        self.packed: set[int] = set()  # arrays of numbers that take as many bytes as each needs
        for field in kind.fields:
            if field.is_repeated and field.type in _VARINTS:
                self.packed.add(field.number)
            if (inside := field.message_type) is not None:
                self.messages[field.number] = known.get(inside.full_name) or Fields(inside, known)


def bounded(
    parse: Callable[[bytes], Any], pool: DescriptorPool, method: str, most: int = LEAST
) -> Callable[[bytes], Any]:
    """The same `parse`, of what a method receives, that refuses messages with more than `most` bytes of fields.

    Args:
        parse: makes the message of its bytes.
        pool: knows the method.
        method: its full name, as `glimpse.v1.ImageClassifier.Classify`.
        most: bytes that are not contents of a field.
    """
    fields, short = Fields(pool.FindMethodByName(method).input_type), max(most, _SHORT)

    def parse_bounded(message: bytes) -> Any:
        """The message.

        Raises:
            InvalidRequestError: expected; MALFORMED_MESSAGE.
            DecodeError: expected; it is none.
        """
        if len(message) > short and exceeds(message, fields, most):
            raise InvalidRequestError(
                Reason.MALFORMED_MESSAGE,
                f"The message has too many fields: more than {most} of its {len(message)} bytes are neither image nor "
                "text. Send fewer images in a message, and only fields that its .proto has.",
            )
        return parse(message)

    return parse_bounded


def exceeds(message: bytes, fields: Fields, most: int) -> bool:
    """Whether more than `most` bytes of a message are fields, and not what they contain.

    It ends as soon as that is known: with one large image, after three fields. Of bytes that are no message, those
    count that a parser reads before it finds that out.
    """
    try:
        return _exceeds(message, fields, most)
    except IndexError:  # it ends within a field, or a number does not end
        return False


def _exceeds(message: bytes, fields: Fields, most: int) -> bool:
    at, end, groups = 0, len(message), 0
    held = last = 0  # bytes of contents so far; where the contents began that have just been passed, 0: it was no such
    # The messages that this one is within: where each ends, what it is, and where this one began with how much held.
    around: list[tuple[int, Fields, int, int]] = []
    while at - held <= most:
        if len(message) - held <= most:
            return False
        if at >= end:
            if groups or not around:
                return False
            end, fields, begun, before = around.pop()
            if at < end and last:
                more = _alike(message, at, end, (begun, last), most)
                held += more * (held - before)
                at += more * (at - begun)
                last = 0
            continue
        begun, last = at, 0
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == CONTENTS:
            size, at = varint(message, at)
            if size > end - at:
                return False  # no parser goes on here
            inside = None if groups else fields.messages.get(tag >> 3)
            if inside is None:
                last = at
                at += size
                held += size - (size // _PACKED if tag >> 3 in fields.packed else 0)
            else:
                around.append((end, fields, begun, held))
                end, fields = at + size, inside
        elif kind in _GROUPS:  # of no type that we have: nothing in it is known
            groups += _GROUPS[kind]
        else:
            at = _after(message, at, kind)
    return True


def _alike(message: bytes, at: int, end: int, first: tuple[int, int], most: int) -> int:
    """How many fields follow that are as long as the one before, and equal to it up to where its last contents begin.

    Such are images of equal size: with that, 64 of them are counted in less time than ten others.

    Args:
        message: the message.
        at: where the one before ends, and that one's equals would begin.
        end: where all of them must end.
        first: where the one before begins, and the contents in it that reach to its end.
        most: there may be more of them than have so many bytes together.
    """
    begun, last = first
    size = at - begun
    head, found = message[begun:last], 0
    while len(head) * found <= most and at + size <= end and message.startswith(head, at):
        at += size
        found += 1
    return found


def _after(message: bytes, at: int, kind: int) -> int:
    """Where a number ends."""
    if kind == _VARINT:
        return varint(message, at)[1]
    if kind in _FIXED:
        return at + _FIXED[kind]
    raise IndexError


def varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends.

    Raises:
        IndexError: the message ends before it, or it does not end.
    """
    value = message[at]
    at += 1
    if value < _MORE:
        return value, at
    value &= _MORE - 1
    for shift in range(7, _LONGEST, 7):
        byte = message[at]
        at += 1
        value |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return value, at
    raise IndexError
