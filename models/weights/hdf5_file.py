"""What of HDF5 the readers of Keras' files use, and nothing that reaches out of the file or beyond its size.

HDF5 can point to other files (external and soft links, external and virtual datasets), load filters from a folder, and
claim arrays of any size that are not stored. Keras writes none of these, so none is read. The C library sees the file
only in a process of its own (`models.weights.hdf5_index`), which can loop or crash without harm.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from models.weights.dtypes import BFLOAT16, numbers, width
from models.weights.errors import WeightsError

MAGIC = b"\x89HDF\r\n\x1a\n"
_INDEX = Path(__file__).with_name("hdf5_index.py")
# Of computing, for the process that makes the index. It takes a second for the largest published files, which are some
# hundreds of megabytes; a file that makes the library loop takes for ever.
_SECONDS = 20
_SIZE = 16 << 20  # bytes of a file that allow it one second more
_TOLD = 200  # characters of what the library says
_OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)  # not on Windows, where nothing limits the computing
_PATIENCE = 4  # times as long by the clock: other processes need the processor, too


class Hdf5:
    """An HDF5 file.

    Args:
        data: the HDF5 file, or the member of a zip archive that is one.
        path: of the file on disk.
        start: where that is an archive, where in it `data` begins.

    Raises:
        WeightsError: damaged, or it takes too long to read.
    """

    def __init__(self, data: IO[bytes], path: Path, *, start: int = 0) -> None:
        self._data, self._path = data, path
        # Bytes that datasets may still have: several may claim the same part of the file.
        self._left = self._size = data.seek(0, 2)
        self._index = _index(path, start, self._size)

    def groups(self) -> Iterator[str]:
        """The path of every group, ``a/b/c``; the root's is empty."""
        yield from sorted(self._index)

    def members(self, group: str) -> Mapping[str, Any]:
        """What is in a group, by name: True for a group, a dictionary for a dataset, None for what is not read."""
        if group not in self._index:
            raise WeightsError(f"{self._path} lacks the group {group!r}, which it lists. Copy it again.")
        members: Mapping[str, Any] = self._index[group]["members"]
        return members

    def text(self, group: str, attribute: str) -> str | None:
        """An attribute that is one text, None if the group has none."""
        value = self._index[group]["texts"].get(attribute)
        return value if isinstance(value, str) else None

    def texts(self, group: str, attribute: str) -> list[str] | None:
        """A list of names that is an attribute of a group, None if it has none.

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

    def array(self, group: str, path: str) -> NDArray[np.generic]:
        """The dataset at ``a/b/c`` below a group."""
        folder, _, name = f"{group}/{path}".lstrip("/").rpartition("/")
        members = self.members(folder)
        if name not in members:
            raise WeightsError(f"{self._path} lacks the tensor {path!r}, which it lists. Copy it again.")
        dataset = members[name]
        if not isinstance(dataset, dict) or not dataset["plain"]:
            raise WeightsError(
                f"{self._path} does not hold the tensor {folder}/{name} as it is, but compressed, in parts, behind a "
                "link or not at all. Save it again with Keras."
            )
        shape, dtype = tuple(dataset["shape"]), dataset["dtype"]
        # NumPy has no name for a bfloat16; Keras says that two bytes are one.
        if dtype == "|V2" and dataset["texts"].get("dtype") == BFLOAT16:
            dtype = BFLOAT16
        elif np.dtype(dtype).kind not in "fiub":
            raise WeightsError(
                f"{self._path} holds {dtype} for {folder}/{name}, not numbers. Save it again with Keras."
            )
        return numbers(self._read(dataset["offset"], shape, dtype), dtype).reshape(shape)

    def _read(self, offset: int, shape: tuple[int, ...], dtype: str) -> bytes:
        size = math.prod(shape) * width(dtype)
        if size > self._left or not 0 <= offset <= self._size - size:
            raise WeightsError(f"{self._path} claims more numbers, {shape}, than it holds. Copy it again.")
        self._left -= size
        self._data.seek(offset)
        return self._data.read(size)


def _index(path: Path, start: int, size: int) -> Mapping[str, Any]:
    seconds = _SECONDS + size // _SIZE
    # -P: not to import from the folder of the program, whose modules are ours.
    command = [sys.executable, "-P", str(_INDEX), *map(str, (seconds, start, size))]
    # Threads that are never used take address space, which is limited.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    try:
        with path.open("rb") as file:
            ended = subprocess.run(  # noqa: S603 - a program of ours
                command, stdin=file, capture_output=True, timeout=_PATIENCE * seconds, check=False, env=environment
            )
    except subprocess.TimeoutExpired as error:
        raise _too_long(path, f"{_PATIENCE * seconds} seconds") from error
    if ended.returncode:
        if ended.returncode == -_OUT_OF_TIME:
            raise _too_long(path, f"{seconds} seconds of computing")
        reason = ended.stderr.decode(errors="replace").strip().splitlines()
        told = reason[-1] if reason else f"reading it ended with {_signal(ended.returncode)}"
        raise WeightsError(f"{path} is a damaged HDF5 file: {told[:_TOLD]}. Copy it again.")
    index: Mapping[str, Any] = json.loads(ended.stdout)
    return index


def _too_long(path: Path, limit: str) -> WeightsError:
    return WeightsError(
        f"{path} could not be read as HDF5 within {limit}, which is far more than a file of its size needs. "
        "If other copies of it cannot be read either, save the weights again, or as safetensors."
    )


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return str(code)
