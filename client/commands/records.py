"""Answers for programs: a record for each image, as JSON Lines or CSV, written here and read back to resume."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Protocol

from glimpse.client.commands.csv_cells import escape_cell, unescape_cell
from glimpse.client.commands.overlay import record
from glimpse.client.errors import Code
from glimpse.client.results import ImageResult, Prediction

LONGEST = 16 * 1024 * 1024  # bytes of a line; a file with longer ones is none of ours, and must not fill the memory
# What may go well another time. The rest is about the image itself.
_PASSING_CODES = frozenset(
    {
        Code.CANCELLED,
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
    }
)
_PASSING_REASONS = frozenset({"FILE_NOT_FOUND", "FILE_UNREADABLE"})  # of this side: a disk that was not there


@dataclass(frozen=True, slots=True)
class Record:
    """What resuming needs to know of an answer."""

    path: str
    failed: bool
    passing: bool  # it failed for a reason that may be gone


class Format(Protocol):
    """How records look."""

    @property
    def header(self) -> bytes:
        """What the output begins with; may be empty."""

    @property
    def beginning(self) -> bytes:
        """What the output begins with at the least, header or first record."""

    def of_file(self, first_line: bytes) -> Format:
        """The form to go on in with a file that begins so: this one, or that of an older version."""

    def record(self, path: str, result: ImageResult) -> bytes:
        """An answer, with the end of its line."""

    def read(self, record: bytes) -> Record:
        """What `record` has made.

        Raises:
            ValueError: it has not made this.
        """

    def is_whole(self, record: bytes) -> bool:
        """Whether a record that begins here ends here."""


class JsonLines:
    """One JSON object an image and line."""

    header = b""
    beginning = b'{"path": "'

    def of_file(self, first_line: bytes) -> Format:  # noqa: ARG002  (the protocol's)
        """There has been no other."""
        return self

    def record(self, path: str, result: ImageResult) -> bytes:
        """An answer, with the end of its line."""
        answer: dict[str, Any] = {
            "path": path,
            "predictions": [
                {"label": each.label, "index": each.index, "probability": each.probability}
                | ({"class_id": each.class_id} if each.class_id else {})
                | ({"is_group": True} if each.is_group else {})
                | ({} if each.over_threshold is None else {"over_threshold": each.over_threshold})
                for each in result.predictions
            ],
            "error": None if result.error is None else asdict(result.error),
            "model": None if result.model is None else asdict(result.model),
        }
        if result.novelty is not None:
            answer["novelty"] = asdict(result.novelty)
        if result.probability_outside is not None:
            answer["probability_outside"] = result.probability_outside
        if result.request_id:
            answer["request_id"] = result.request_id
        if result.explanation is not None:
            answer["explanation"] = record(result.explanation)
        return json.dumps(answer).encode() + b"\n"

    def read(self, record: bytes) -> Record:
        """What `record` has made."""
        try:
            answer = json.loads(record)
            path, error = answer["path"], answer["error"]
            return record_of(path, error)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"lacks {error}") from error

    def is_whole(self, record: bytes) -> bool:
        """JSON has no line breaks of its own."""
        return record.endswith(b"\n")


class EmbeddingLines(JsonLines):
    """One JSON object an image and line, with its embedding."""

    def record(self, path: str, result: ImageResult) -> bytes:
        """An answer, with the end of its line."""
        answer = {
            "path": path,
            "embedding": None if result.embedding is None else result.embedding.tolist(),
            "error": None if result.error is None else asdict(result.error),
            "model": None if result.model is None else asdict(result.model),
        }
        return json.dumps(answer).encode() + b"\n"


class Csv:
    """One line an image: its first classes side by side, as many as were asked for, their ids behind all else.

    The last cell has the labels of a multi-label model that are at least their threshold, with "|" between them, as the
    table has them that such a model is trained with.

    Text is escaped as `client.commands.csv_cells` says.
    """

    def __init__(self, top_k: int, *, ids: bool = True, labels: bool = True, novelty: bool = False) -> None:
        """A format with label, probability and id of `top_k` classes; what an image or a class lacks stays empty.

        Args:
            top_k: classes of an image.
            ids: with the classes' ids, which older versions did not write.
            labels: with the labels over their thresholds, which older versions did not write.
            novelty: with score, threshold and verdict of novelty behind all else.
        """
        pairs = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "probability")]
        columns = [f"class_id_{rank}" for rank in range(1, top_k + 1)] if ids else []
        self._columns = ["path", *pairs, "error", "code", "message", "model", "version", *columns]
        self._columns += ["labels"] if labels else []
        self._columns += ["novelty", "threshold", "known"] if novelty else []
        self._ids, self._labels, self._novelty = ids, labels, novelty
        self._top_k = top_k
        self.header = _csv_line(self._columns)
        self.beginning = self.header

    def of_file(self, first_line: bytes) -> Format:
        """As the file has it: also without ids or labels, and with novelty that is not asked for any more."""
        others = [Csv(self._top_k, novelty=True)]
        if not self._novelty:
            others += [Csv(self._top_k, ids=ids, labels=False) for ids in (True, False)]
        return next((each for each in others if first_line == each.header), self)

    def record(self, path: str, result: ImageResult) -> bytes:
        """An answer, with the end of its line."""
        first = result.predictions[: self._top_k]
        pairs = [field for each in first for field in (escape_cell(each.label), repr(each.probability))]
        error, model = result.error, result.model
        return _csv_line(
            [
                escape_cell(path),
                *pairs,
                *[""] * (2 * (self._top_k - len(first))),
                *(
                    ["", "", ""]
                    if error is None
                    else [escape_cell(error.reason), str(int(error.code)), escape_cell(error.message)]
                ),
                *(["", ""] if model is None else [escape_cell(model.name), escape_cell(model.version)]),
                *([*map(_id, first), *[""] * (self._top_k - len(first))] if self._ids else []),
                *([_labels(result.predictions)] if self._labels else []),
                *(_verdict(result) if self._novelty else []),
            ]
        )

    def read(self, record: bytes) -> Record:
        """What `record` has made."""
        text = io.StringIO(record.decode(errors="surrogateescape"), newline="")
        try:
            (fields,) = csv.reader(text, strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        answer = dict(zip(self._columns, fields, strict=True))
        failed = {"code": int(answer["code"]), "reason": unescape_cell(answer["error"])} if answer["code"] else None
        return record_of(unescape_cell(answer["path"]), failed)

    def is_whole(self, record: bytes) -> bool:
        """Names of files may have line breaks, which stand in quotes."""
        return record.endswith(b"\n") and record.count(b'"') % 2 == 0


def split(file: BinaryIO, form: Format) -> Iterator[bytes]:
    """Records as they lie in a file; the last one may be torn, and is then not whole.

    Raises:
        ValueError: one is longer than any of ours.
    """
    record = b""
    while line := file.readline(LONGEST):
        record += line
        if len(record) >= LONGEST:
            raise ValueError("its lines are too long")
        if form.is_whole(record):
            yield record
            record = b""
    if record:
        yield record


def record_of(path: object, error: Mapping[str, Any] | None) -> Record:
    """What resuming needs to know of an answer; `error` has at least its code and its reason."""
    if not isinstance(path, str):
        raise TypeError("a path")
    passing = error is not None and (error["code"] in _PASSING_CODES or error["reason"] in _PASSING_REASONS)
    return Record(path, error is not None, passing)


def _verdict(result: ImageResult) -> list[str]:
    if (found := result.novelty) is None:
        return ["", "", ""]
    return [repr(found.score), repr(found.threshold), "true" if found.known else "false"]


def _id(prediction: Prediction) -> str:
    return escape_cell(prediction.class_id)


def _labels(predictions: Sequence[Prediction]) -> str:
    return escape_cell("|".join(each.label for each in predictions if each.over_threshold))


def _csv_line(fields: list[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    # Bytes of a name that are no text come out as they are in the folder.
    return line.getvalue().encode(errors="surrogateescape")
