"""Reading FlatBuffers, the format of TFLite files, with every offset and length checked against the file.

The packages `flatbuffers` and `tflite` are not used for it, because they are not made for files from untrusted sources.
Python has no verifier of FlatBuffers: an offset that points in front of the file is read from its end, the same table
may be visited any number of times, and what goes wrong is an error of `struct` or NumPy. Each access would need the
checks of this module around it, and `tflite`, released five times in the last six years, would save no more than the
numbers of the fields in `tflite_file`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_TABLES = 200_000  # the largest published models have some ten thousand


class DamagedError(ValueError):
    """An offset or a length leads out of the file; the message says which."""


class Buffer:
    """The bytes of a file, never read beyond its ends."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        # Many offsets may lead to the same table, so that visiting them all could take very long.
        self._tables = _TABLES

    def number(self, form: str, position: int) -> int:
        """The number at a position, of a format of `struct`."""
        if not 0 <= position <= len(self._data) - struct.calcsize(form):
            raise DamagedError(f"byte {position} of {len(self._data)}")
        value: int = struct.unpack_from(form, self._data, position)[0]
        return value

    def slice(self, start: int, size: int) -> memoryview:
        """`size` bytes from a position on."""
        if start + size > len(self._data):
            raise DamagedError(f"bytes {start} to {start + size} of {len(self._data)}")
        return self._data[start : start + size]

    def table(self, position: int) -> Table:
        """The table that the offset at `position` leads to."""
        if not self._tables:
            raise DamagedError(f"more than {_TABLES} tables")
        self._tables -= 1
        return Table(self, position + self.number("<I", position))


class Table:
    """A table of a FlatBuffer: optional fields, whose positions are listed in its vtable."""

    def __init__(self, buffer: Buffer, position: int) -> None:
        self._buffer, self._position = buffer, position
        # The table begins with the distance to its vtable, which usually precedes it.
        self._fields = position - buffer.number("<i", position)
        self._size = buffer.number("<H", self._fields)

    def number(self, field: int, form: str) -> int:
        """A field that is a number; 0 where it is absent."""
        position = self._field(field)
        return self._buffer.number(form, position) if position else 0

    def bytes(self, field: int, item: int = 1) -> memoryview:
        """The bytes of a field that is a vector of items of `item` bytes; empty where it is absent."""
        start, count = self._vector(field)
        return self._buffer.slice(start, count * item)

    def tables(self, field: int) -> Iterator[Table]:
        """A field that is a vector of tables."""
        start, count = self._vector(field)
        for number in range(count):
            yield self._buffer.table(start + 4 * number)

    def table(self, field: int) -> Table | None:
        """A field that is a table; None where it is absent."""
        position = self._field(field)
        return self._buffer.table(position) if position else None

    def numbers(self, field: int, form: str) -> NDArray[np.generic]:
        """A field that is a vector of numbers; empty where it is absent."""
        return np.frombuffer(self.bytes(field, np.dtype(form).itemsize), form)

    def has(self, field: int) -> bool:
        """Whether the field is present."""
        return self._field(field) is not None

    def _vector(self, field: int) -> tuple[int, int]:
        """The position of the first item of a vector, and the number of items."""
        position = self._field(field)
        if position is None:
            return 0, 0
        position += self._buffer.number("<I", position)
        return position + 4, self._buffer.number("<I", position)

    def _field(self, field: int) -> int | None:
        entry = 4 + 2 * field
        offset = self._buffer.number("<H", self._fields + entry) if entry + 2 <= self._size else 0
        return self._position + offset if offset else None
