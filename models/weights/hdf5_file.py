"""The part of HDF5 that Keras' files need, without features that access other files or exceed the size of the file.

HDF5 can point to other files (external and soft links, external and virtual datasets), load filters from a folder, and
claim arrays of any size that are not stored. Keras writes none of these, so none is read. The C library sees the file
only in a process of its own (`models.weights.reader`), which can loop or crash without harm.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import hdf5_index, limits
from glimpse.models.weights.dtypes import BFLOAT16, numbers, width
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.hdf5_index import Window

MAGIC = b"\x89HDF\r\n\x1a\n"
_TOLD = 200  # characters of what the library says


class Hdf5:
    """An HDF5 file.

    Args:
        file: what holds it: the HDF5 file itself, or a zip archive of which it is a member.
        path: of the file on disk.
        data: the bytes of `file`, of which arrays are parts.
        start: where in it the HDF5 file begins.
        size: bytes of the HDF5 file; None: all from there on.

    Raises:
        WeightsError: damaged.
    """

    def __init__(
        self, file: BinaryIO, path: Path, data: memoryview, *, start: int = 0, size: int | None = None
    ) -> None:
        size = len(data) - start if size is None else size
        self._data, self._path = data[start : start + size], path
        # Bytes that datasets may still have: several may claim the same part of the file.
        self._left = self._size = len(self._data)
        self._index = _index(Window(file, start, size), path)

    def groups(self) -> Iterator[str]:
        """The path of every group, ``a/b/c``; the root's is empty."""
        yield from sorted(self._index)

    def members(self, group: str) -> Mapping[str, Any]:
        """The members of a group by name: True for a group, a dictionary for a dataset, None for any other object."""
        if group not in self._index:
            raise WeightsError(f"{self._path} lacks the group {group!r}, which it lists. Copy it again.")
        members: Mapping[str, Any] = self._index[group]["members"]
        return members

    def text(self, group: str, attribute: str) -> str | None:
        """A string attribute of a group, None if the group does not have it."""
        value = self._index[group]["texts"].get(attribute)
        return value if isinstance(value, str) else None

    def texts(self, group: str, attribute: str) -> list[str] | None:
        """An attribute of a group that is a list of strings, None if the group does not have it.

        Keras spreads a list too long for one attribute over ``<name>0``, ``<name>1`` and so on.
        """
        self.members(group)
        found = self._index[group]["texts"]
        parts = [attribute] if attribute in found else [f"{attribute}{number}" for number in range(len(found))]
        lists = [found[part] for part in parts if part in found]
        if not lists:
            return None
        if not all(isinstance(part, list) for part in lists):
            raise WeightsError(f"{self._path} has something other than names in {attribute}. Copy it again.")
        # An empty list is one of numbers.
        return [text for part in lists for text in part if text is not None]

    def numbers(self) -> int:
        """The number of elements of all datasets together.

        Raises:
            WeightsError: one is not stored as it is, or together they claim more than the file holds.
        """
        numbers, size = 0, 0
        for group in self.groups():
            for name, dataset in self.members(group).items():
                if dataset is True:
                    continue
                if not isinstance(dataset, dict) or not dataset["plain"]:
                    raise self._not_plain(f"{group}/{name}")
                count = limits.count(tuple(dataset["shape"]))
                numbers, size = numbers + count, size + count * np.dtype(dataset["dtype"]).itemsize
        if size > self._size:
            raise WeightsError(f"{self._path} claims more numbers, {numbers}, than it holds. Copy it again.")
        return numbers

    def array(self, group: str, path: str) -> NDArray[np.generic]:
        """The dataset at ``a/b/c`` below a group."""
        folder, _, name = f"{group}/{path}".lstrip("/").rpartition("/")
        members = self.members(folder)
        if name not in members:
            raise WeightsError(f"{self._path} lacks the tensor {path!r}, which it lists. Copy it again.")
        dataset = members[name]
        if not isinstance(dataset, dict) or not dataset["plain"]:
            raise self._not_plain(f"{folder}/{name}")
        shape, dtype = tuple(dataset["shape"]), dataset["dtype"]
        # NumPy has no name for a bfloat16; Keras says that two bytes are one.
        if dtype == "|V2" and dataset["texts"].get("dtype") == BFLOAT16:
            dtype = BFLOAT16
        elif np.dtype(dtype).kind not in "fiub":
            raise WeightsError(
                f"{self._path} holds {dtype} for {folder}/{name}, not numbers. Save it again with Keras."
            )
        return numbers(self._read(dataset["offset"], shape, dtype), dtype).reshape(shape)

    def _not_plain(self, name: str) -> WeightsError:
        return WeightsError(
            f"{self._path} stores the tensor {name[:200]} compressed, chunked, behind a link or not at all. "
            "Save it again with Keras."
        )

    def _read(self, offset: int, shape: tuple[int, ...], dtype: str) -> memoryview:
        size = limits.count(shape) * width(dtype)
        if size > self._left or not 0 <= offset <= self._size - size:
            raise WeightsError(f"{self._path} claims more numbers, {shape}, than it holds. Copy it again.")
        self._left -= size
        return self._data[offset : offset + size]


def _index(window: Window, path: Path) -> Mapping[str, Any]:
    try:
        return hdf5_index.index(io.BufferedReader(window))
    except MemoryError:
        raise
    except Exception as error:  # whatever h5py says of a damaged file, it is damaged
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{path} is a damaged HDF5 file: {told[:_TOLD]}. Copy it again.") from error
