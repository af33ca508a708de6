"""Embeddings in a Parquet file, for pandas, Polars, DuckDB and Spark; written with pyarrow, where it is installed.

A Parquet file cannot be gone on with, for what it holds is told at its end. So answers go to FILE.parquet.jsonl as they
come, see `client.commands.records.EmbeddingLines`, and FILE.parquet is made of all of them when the run has come to its
end: whole, or not at all.
"""

from __future__ import annotations

import importlib
import json
from itertools import islice
from pathlib import Path
from typing import Any, Self

from glimpse.client.commands.output import File
from glimpse.client.commands.records import EmbeddingLines
from glimpse.client.commands.standard import OutputError
from glimpse.client.results import ImageResult

_ROWS = 1000  # of a row group: what is in memory at a time


class ParquetFile:
    """Takes embeddings; an `Output`."""

    def __init__(self, path: Path, *, resume: bool, retry_failed: bool) -> None:
        """Open the file of the answers for this run alone.

        Args:
            path: of the Parquet file; that of the answers follows from it.
            resume: go on after what an earlier run has written; else the files must be empty or not there.
            retry_failed: send images again that failed for a reason that may have passed.

        Raises:
            OSError: a file cannot be opened, read or written.
            ValueError: pyarrow is not installed, another run writes the file, it holds something, or what it holds is
                none of ours.
        """
        self._arrow, self._parquet = _pyarrow()
        self._path, self._lines_path = path, path.with_name(f"{path.name}.jsonl")
        if not resume and path.exists() and path.stat().st_size:
            raise ValueError(f"{path} exists already. Continue it with --resume, or name another file.")
        self._lines = File.opened(self._lines_path, EmbeddingLines(), resume=resume, retry_failed=retry_failed)
        self.failed = self._lines.failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Make the Parquet file, unless the run was broken off.

        Raises:
            OutputError: it cannot be written.
        """
        self._lines.close()
        if kind is not None:
            return
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            self._write(partial)
            partial.replace(self._path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            why = error.strerror or str(error)
            raise OutputError(
                f"{self._path} cannot be written: {why}. The answers are in {self._lines_path}; repeat the command "
                "with --resume."
            ) from error

    @property
    def summary(self) -> str:
        """What was written where."""
        return f"{self._lines.summary} The table of all of them is {self._path}."

    def has(self, path: str) -> bool:
        """Whether an earlier run has answered it."""
        return self._lines.has(path)

    def write(self, path: str, result: ImageResult) -> None:
        """Add the embedding of an image, or why it has none.

        Raises:
            OutputError: it cannot be written.
        """
        self._lines.write(path, result)
        self.failed = self._lines.failed

    def _write(self, path: Path) -> None:
        arrow = self._arrow
        text = arrow.string()
        schema = arrow.schema(
            [
                ("path", text),
                ("embedding", arrow.list_(arrow.float32())),
                *((name, text) for name in ("model", "version", "weights_digest", "reason", "error")),
            ]
        )
        with self._parquet.ParquetWriter(str(path), schema) as writer, self._lines_path.open("rb") as lines:
            while rows := [_row(line) for line in islice(lines, _ROWS)]:
                writer.write_batch(arrow.RecordBatch.from_pylist(rows, schema=schema))


def _row(line: bytes) -> dict[str, Any]:
    """A row of the table: an image without an embedding has null there, and in the last two columns why."""
    answer = json.loads(line)
    model, error = answer["model"] or {}, answer["error"] or {}
    return {
        # A name that is no text, which Linux allows, has question marks in place of the bytes that are none.
        "path": answer["path"].encode(errors="replace").decode(),
        "embedding": answer["embedding"],
        "model": model.get("name"),
        "version": model.get("version"),
        "weights_digest": model.get("weights_digest"),
        "reason": error.get("reason"),
        "error": error.get("message"),
    }


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its part for Parquet, which the client does not need otherwise.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"Parquet files are written with pyarrow, which cannot be imported: {error}. Install it (pip install "
            "pyarrow), or name a file that ends in .npy or .jsonl."
        ) from error
