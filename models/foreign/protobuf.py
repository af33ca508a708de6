"""Reading messages of Protocol Buffers in place, without their schema and without copies.

Every length is checked against the message around it, and what is visited is counted. The packages `protobuf` and
`onnx` would make objects of the whole file, weights included, which takes twice its memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from glimpse.models.foreign.facts import DamagedGraphError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST = 10  # bytes of a varint
_LARGEST = (1 << 29) - 1  # number of a field, by the specification of Protocol Buffers
FIELDS = 3_000_000  # that are visited in a file; the largest published graphs have some hundred thousand

Value = int | memoryview


class Counter:
    """How many fields of a file may still be visited."""

    def __init__(self, most: int = FIELDS) -> None:
        self.left = most


class Message:
    """The fields of one message."""

    def __init__(self, data: memoryview, counter: Counter) -> None:
        self._data, self._counter = data, counter

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        """Each field's number and value, in the order of the file: an int, or the bytes of anything else.

        Raises:
            DamagedGraphError: it is no such message, or the file has more fields than are visited.
        """
        data, position, end = self._data, 0, len(self._data)
        while position < end:
            self._counter.left -= 1
            if self._counter.left < 0:
                raise DamagedGraphError(f"has more than {FIELDS:,} fields")
            key, position = _varint(data, position)
            number, kind = key >> 3, key & 7
            if not 0 < number <= _LARGEST:  # readers drop the upper bits of a larger one: another field
                raise DamagedGraphError(f"has a field with the number {number}, where 1 to {_LARGEST:,} are possible")
            if kind == _VARINT:
                value, position = _varint(data, position)
                yield number, value
                continue
            if kind == _BYTES:
                size, position = _varint(data, position)
            elif kind in {_FIXED64, _FIXED32}:
                size = 8 if kind == _FIXED64 else 4
            else:
                raise DamagedGraphError(f"has a field of the unknown kind {kind}")
            if size > end - position:
                raise DamagedGraphError(f"has a field of {size} bytes where {end - position} are left")
            yield number, data[position : position + size]
            position += size

    def messages(self, number: int) -> Iterator[Message]:
        """The messages in a field that may be repeated."""
        for found, value in self:
            if found == number:
                yield self.inner(value)

    def message(self, number: int) -> Message:
        """The message in a field, of several the last; without any fields where there is none."""
        inner = Message(memoryview(b""), self._counter)
        for inner in self.messages(number):  # noqa: B007 - the last is what counts
            pass
        return inner

    def text(self, number: int, most: int) -> str:
        """The text in a field, of at most so many bytes; empty where there is none."""
        return next((text_of(value, most) for found, value in self if found == number), "")

    def integer(self, number: int) -> int:
        """The whole number in a field, 0 where there is none."""
        return next((value for found, value in self if found == number and isinstance(value, int)), 0)

    def inner(self, value: Value) -> Message:
        """The value of a field as a message."""
        if isinstance(value, int):
            raise DamagedGraphError("has a number in the place of a message")
        return Message(value, self._counter)


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text_of(value: Value, most: int) -> str:
    """The value of a field as text.

    Raises:
        DamagedGraphError: it is a number, longer than `most` bytes, or not UTF-8.
    """
    if isinstance(value, int):
        raise DamagedGraphError("has a number in the place of a text")
    if len(value) > most:
        raise DamagedGraphError(f"has a text of {len(value):,} bytes, where at most {most:,} are read")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedGraphError("has a text that is not UTF-8") from error


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A varint, and the position behind it."""
    value = 0
    for place in range(_LONGEST):
        if position >= len(data):
            raise DamagedGraphError("ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise DamagedGraphError(f"has a number of more than {_LONGEST} bytes")
