"""Vectors in a file of NumPy's format, and the names of the images beside it: written row by row, and gone on with.

FILE.npy is an array ``[images, numbers]`` in the format that NumPy documents (numpy.lib.format, version 1.0), which is
written here without NumPy. FILE.names.jsonl has a line for each image in the order of the run: ``{"path": ...}`` for
each row, and ``{"path": ..., "error": {...}}`` for an image without one. Its first line says which model the vectors
are of, so that a run is not gone on with by another one.

A row is written before its name, and whatever ends a run between the two leaves a row that the next one writes again.
"""

from __future__ import annotations

import json
import os
import struct
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

from glimpse.client.commands import records
from glimpse.client.commands.output import digest_of, open_alone, write_whole
from glimpse.client.commands.standard import OutputError
from glimpse.client.results import ImageResult, ModelIdentity

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = 128  # bytes, with room for any number of rows; the format asks for a multiple of 64


class NpyFile:
    """Takes embeddings; an `Output`."""

    def __init__(self, path: Path, *, resume: bool, retry_failed: bool) -> None:
        """Open both files for this run alone.

        Args:
            path: of the vectors; that of the names follows from it.
            resume: go on after what an earlier run has written; else the files must be empty or not there.
            retry_failed: send images again that failed for a reason that may have passed.

        Raises:
            OSError: a file cannot be opened, read or written.
            ValueError: another run writes them, they hold something, or what they hold is none of ours.
        """
        self.failed = 0
        self._path, self._names_path = path, path.with_suffix(".names.jsonl")
        self._rows = self._written = self._size = 0
        self._model: ModelIdentity | None = None
        self._answered: set[bytes] = set()
        self._names = open_alone(self._names_path)
        try:
            # Opened for reading, too, and neither emptied nor appended to: the header is written again with each row.
            self._vectors: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            try:
                self._begin(resume=resume, retry_failed=retry_failed)
            except BaseException:
                self._vectors.close()
                raise
        except BaseException:
            self._names.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors.close()
        self._names.close()

    @property
    def summary(self) -> str:
        """How many vectors this run wrote, and how many there are."""
        earlier = self._rows - self._written
        now = f", which now holds {self._rows:,}" if earlier else ""
        return (
            f"{self._written:,} embedding{'s' * (self._written != 1)} written to {self._path}{now}. "
            f"The names are in {self._names_path}."
        )

    def has(self, path: str) -> bool:
        """Whether an earlier run has answered it."""
        return bool(self._answered) and digest_of(path) in self._answered

    def write(self, path: str, result: ImageResult) -> None:
        """Add the embedding of an image, or why it has none.

        Raises:
            OutputError: it cannot be written, or is of another model than the others.
        """
        try:
            if result.embedding is not None and result.model is not None:
                self._add(result.embedding, result.model)
                line: dict[str, Any] = {"path": path}
            else:
                self.failed += 1
                line = {"path": path, "error": None if result.error is None else asdict(result.error)}
            write_whole(self._names, json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}.") from error

    def _add(self, vector: array[float], model: ModelIdentity) -> None:
        if self._model is None:
            self._model, self._size = model, len(vector)
            first = {"model": asdict(model), "numbers": self._size}
            write_whole(self._names, json.dumps(first).encode() + b"\n")
        if (model, len(vector)) != (self._model, self._size):
            raise OutputError(
                f"{self._path} holds embeddings of {_shown(self._model)}, but the server now answers with "
                f"{_shown(model)}, whose embeddings cannot be compared with those. Name another file, or the model and "
                "its version."
            )
        row = struct.pack(f"<{self._size}f", *vector)
        self._put(_HEADER + self._rows * len(row), row)
        self._rows += 1
        self._written += 1
        self._put(0, _header(self._rows, self._size))

    def _put(self, place: int, data: bytes) -> None:
        self._vectors.seek(place)
        write_whole(self._vectors, data)

    def _begin(self, *, resume: bool, retry_failed: bool) -> None:
        if not resume:
            for each in (self._path, self._names_path):
                if each.stat().st_size:
                    raise ValueError(f"{each} exists already. Continue it with --resume, or name another file.")
            return
        lines, torn = self._read()
        self._rows = sum(not each.failed for each in lines)
        # An image that failed may have been sent again: its last line counts.
        last = {digest_of(each.path): each for each in lines}
        retried = {digest for digest, each in last.items() if retry_failed and each.passing}
        self._answered = set(last) - retried
        self.failed = sum(last[digest].failed for digest in self._answered)
        size = _HEADER + 4 * self._size * self._rows if self._rows else 0
        there = os.fstat(self._vectors.fileno()).st_size
        beginning = self._vectors.read(len(_MAGIC))
        # The model stands in the names before there is a first row, and a header behind that.
        if there < size or (there and self._model is None) or not _MAGIC.startswith(beginning):
            raise ValueError(
                f"{self._path} is not what {self._names_path} has the names of. It was left as it is. Name another "
                "file."
            )
        if torn is not None:
            os.ftruncate(self._names.fileno(), torn)
        os.ftruncate(self._vectors.fileno(), size)
        if self._rows:
            self._put(0, _header(self._rows, self._size))

    def _read(self) -> tuple[list[records.Record], int | None]:
        """What the names say, and where the last whole line ends if there is a torn one behind it.

        Raises:
            ValueError: they are none of ours.
        """
        found: list[records.Record] = []
        end = 0
        with self._names_path.open("rb") as file:
            try:
                for data in records.split(file, records.JsonLines()):
                    if not data.endswith(b"\n"):
                        return found, end
                    end += len(data)
                    line = json.loads(data)
                    if "model" in line:
                        self._model, self._size = ModelIdentity(**line["model"]), int(line["numbers"])
                    else:
                        found.append(records.record_of(line["path"], line.get("error")))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._names_path} is not the output of this command: {error}. It was left as it is. Name "
                    "another file."
                ) from error
        return found, None


def _header(rows: int, numbers: int) -> bytes:
    """The beginning of a file of float32 ``[rows, numbers]``."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {numbers}), }}".encode()
    length = _HEADER - len(_MAGIC) - 2
    return _MAGIC + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


def _shown(model: ModelIdentity | None) -> str:
    return "" if model is None else f"{model.name}, version {model.version} ({model.weights_digest[:19]})"
