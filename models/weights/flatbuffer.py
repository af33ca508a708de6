"""FlatBuffers: tables of offsets, each checked against the file, which their own runtime for Python does not do."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_TABLES = 200_000  # the largest published models have some ten thousand


class DamagedError(ValueError):
    """An offset or a length that leads out of the file."""


class Buffer:
    """The bytes of a file, never read beyond its ends."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        # Many offsets may lead to one table; following them all could take for ever.
        self._tables = _TABLES

    def number(self, form: str, position: int) -> int:
        """The number at a place, as `struct` writes its form."""
        if not 0 <= position <= len(self._data) - struct.calcsize(form):
            raise DamagedError(f"byte {position} of {len(self._data)}")
        value: int = struct.unpack_from(form, self._data, position)[0]
        return value

    def slice(self, start: int, size: int) -> memoryview:
        """So many bytes from a place on."""
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
    """A table of a FlatBuffer: optional fields, found through a list of where each is."""

    def __init__(self, buffer: Buffer, position: int) -> None:
        self._buffer, self._position = buffer, position
        # The table begins with how far before it that list lies.
        self._fields = position - buffer.number("<i", position)
        self._size = buffer.number("<H", self._fields)

    def number(self, field: int, form: str) -> int:
        """A field that is a number; 0 where it is left out."""
        position = self._field(field)
        return self._buffer.number(form, position) if position else 0

    def bytes(self, field: int, item: int = 1) -> memoryview:
        """A field that is a vector of items of so many bytes; empty where it is left out."""
        start, count = self._vector(field)
        return self._buffer.slice(start, count * item)

    def tables(self, field: int) -> Iterator[Table]:
        """A field that is a vector of tables."""
        start, count = self._vector(field)
        for number in range(count):
            yield self._buffer.table(start + 4 * number)

    def table(self, field: int) -> Table | None:
        """A field that is a table."""
        position = self._field(field)
        return self._buffer.table(position) if position else None

    def numbers(self, field: int, form: str) -> NDArray[np.generic]:
        """A field that is a vector of numbers; empty where it is left out."""
        return np.frombuffer(self.bytes(field, np.dtype(form).itemsize), form)

    def has(self, field: int) -> bool:
        """Whether the field is not left out."""
        return self._field(field) is not None

    def _vector(self, field: int) -> tuple[int, int]:
        """Where its items begin, and how many there are."""
        position = self._field(field)
        if position is None:
            return 0, 0
        position += self._buffer.number("<I", position)
        return position + 4, self._buffer.number("<I", position)

    def _field(self, field: int) -> int | None:
        entry = 4 + 2 * field
        offset = self._buffer.number("<H", self._fields + entry) if entry + 2 <= self._size else 0
        return self._position + offset if offset else None
