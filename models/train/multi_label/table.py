"""A CSV of labels: which image shows which of them.

Two forms are read, with commas between the cells and a header. The first column names the image, as a path within the
folder or the zip file of images, with slashes.

- A list: ``file,labels``, and in the second cell the labels of the image, with ``|`` or ``;`` between them. An empty
  cell is an image that shows none.
- Columns: ``file,cat,dog,...``, one column a label, and in each cell 1 or 0.

It is the list where there are two columns and the second is called label, labels, class, classes, tag or tags.
Everything that can be wrong with it is said before an image is decoded. Keras is not imported here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glimpse.models import bundle
from glimpse.models.files import texts
from glimpse.models.labels import ClassLabel, counted, some
from glimpse.models.train.files import composed

_LIST = frozenset({"label", "labels", "class", "classes", "tag", "tags"})
_BETWEEN = re.compile(r"[|;]")
_CELLS = {"0": 0, "1": 1}
_LONGEST = 64 << 20  # bytes of the file
# The first bytes of tables in other formats.
_NO_TEXT = {b"PK\x03\x04": "an Excel workbook or another zip file", b"PAR1": "a Parquet file"}
# Images that must show a label, and as many that must not: one of each to train with, and one to fit its threshold on.
FEWEST = 2


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Which image shows which labels.

    Attributes:
        path: of the file, for messages.
        files: names of the images, in the order of the rows.
        labels: sorted where they were listed; in the order of the columns where each has one.
        targets: int64 ``[files, labels]`` of 1, where the image shows the label, and 0.
    """

    path: Path
    files: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.int64]

    def ordered(self, labels: Sequence[str]) -> LabelTable:
        """The same table with the labels of a model, in its order; none of them need be in the table.

        Raises:
            ValueError: the table has labels that the model does not have.
        """
        if unknown := [label for label in self.labels if label not in labels]:
            raise ValueError(f"{self.path} has labels that the model does not have: {some(sorted(unknown))}.")
        targets = np.zeros((len(self.files), len(labels)), np.int64)
        targets[:, [list(labels).index(label) for label in self.labels]] = self.targets
        return LabelTable(self.path, self.files, tuple(labels), targets)


def read(path: Path) -> LabelTable:
    """Read a CSV of labels.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a table; the message names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise ValueError(f"{path} has more than {_LONGEST >> 20} MiB, the largest size of a table of labels.")
        for magic, what in _NO_TEXT.items():
            if data.startswith(magic):
                raise ValueError(f"{path} is {what}, not a CSV file. Save the table as CSV.")
        return parse(texts.decode(data), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: at byte {error.start}, {error.reason}.") from error


def parse(text: str, path: Path) -> LabelTable:
    """The table of a text.

    Raises:
        ValueError: it is none; the message names the line.
    """
    rows = _rows(text, path)
    try:
        line, header = next(rows)
    except StopIteration:
        raise ValueError(f"{path} is empty. {_FORMS}") from None
    if len(header) < 2 or not header[0]:
        hint = " Its cells are separated by semicolons." if ";" in ",".join(header) and len(header) == 1 else ""
        raise ValueError(f"{path}, line {line}: the header must name at least two columns.{hint} {_FORMS}")
    listed = len(header) == 2 and header[1].casefold() in _LIST
    return (_listed if listed else _in_columns)(path, header, rows)


_FORMS = (
    "A table of labels is file,labels with | or ; between the labels of an image, or file,cat,dog,... with 1 or 0 in a "
    "column for each label; cells are separated by commas."
)


def check(table: LabelTable) -> None:
    """Refuse labels that cannot be learned, or that are not valid in a bundle; before any image is decoded.

    Raises:
        ValueError: there are none, or a label is on too few images or missing on too few.
    """
    bundle.check("labels", "1", [ClassLabel(label) for label in table.labels])
    if not table.labels:
        raise ValueError(f"{table.path} gives no image a label. {_FORMS}")
    shown = table.targets.sum(axis=0)
    rare = [label for label, count in zip(table.labels, shown, strict=True) if count < FEWEST]
    if rare:
        raise ValueError(
            f"{table.path} has labels that fewer than {FEWEST} images show: {some(rare)}. Each needs one image to "
            "train with and one to fit its threshold on: add images, or remove the label."
        )
    everywhere = [label for label, count in zip(table.labels, shown, strict=True) if len(table.files) - count < FEWEST]
    if everywhere:
        raise ValueError(
            f"{table.path} has labels that all images show, or all but one: {some(everywhere)}. What tells such a "
            "label cannot be learned: add images without it, or remove the label."
        )


def check_files(table: LabelTable, data: Path, found: Iterable[str]) -> None:
    """Compare the names in a table with the images that there are.

    Args:
        table: the table.
        data: folder or zip file of the images, for messages.
        found: names of all images there.

    Raises:
        ValueError: the table names images that are not there, or lacks some that are.
    """
    there, named = set(found), set(table.files)
    if missing := sorted(named - there):
        raise ValueError(
            f"{table.path} names {counted(missing, 'image', 'images')} that {data} does not have: {some(missing)}. "
            "Names are paths within it, with slashes and the suffix of an image."
        )
    if unlabelled := sorted(there - named):
        raise ValueError(
            f"{data} has {counted(unlabelled, 'image', 'images')} that {table.path} has no row for: "
            f"{some(unlabelled)}. Add rows, with an empty cell or zeros for an image that shows no label, "
            "or move the images elsewhere."
        )


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows with the numbers of their lines; blank lines at the end are none."""
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), strict=True)
    try:
        for row in reader:
            cells = [composed(cell.strip()) for cell in row]
            if not any(cells):
                raise ValueError(f"{path}, line {reader.line_num}: the row is empty. Remove it.")
            yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a valid row of a CSV file: {error}.") from error


class _Files:
    """The images of the rows, each of which may be named once."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, dict[str, int]()

    def add(self, cell: str, line: int) -> None:
        name = cell.replace("\\", "/").removeprefix("./")
        if not name:
            raise ValueError(f"{self._path}, line {line}: the row names no image. Give its path in the first cell.")
        if (first := self._lines.setdefault(name, line)) != line:
            raise ValueError(
                f"{self._path}, line {line}: {name} is in line {first}, too. Give all labels of an image in one row."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._lines)


def _listed(path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]]) -> LabelTable:
    files, listed = _Files(path), list[list[str]]()
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: a row must have 2 cells, file and labels. Received: {len(cells)}")
        files.add(cells[0], line)
        labels = [label.strip() for label in _BETWEEN.split(cells[1])] if cells[1] else []
        if not all(labels):
            raise ValueError(f"{path}, line {line}: there is no label between two separators. Received: {cells[1]!r}")
        if len(set(labels)) != len(labels):
            raise ValueError(f"{path}, line {line}: a label stands there twice. Received: {cells[1]!r}")
        listed.append(labels)
    known = tuple(sorted({label for labels in listed for label in labels}))
    place = {label: number for number, label in enumerate(known)}
    targets = np.zeros((len(listed), len(known)), np.int64)
    for row, labels in enumerate(listed):
        targets[row, [place[label] for label in labels]] = 1
    return LabelTable(path, files.names, known, targets)


def _in_columns(path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]]) -> LabelTable:
    labels = tuple(header[1:])
    if not all(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"{path}: each column must have the name of a label, and no two the same. Received: {some(labels)}"
        )
    files, values = _Files(path), list[list[int]]()
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: a row must have {len(header)} cells. Received: {len(cells)}")
        files.add(cells[0], line)
        for label, cell in zip(labels, cells[1:], strict=True):
            if cell not in _CELLS:
                raise ValueError(
                    f"{path}, line {line}: the cell of {label} must be 1 or 0. Received: {cell[:40]!r}. {_FORMS}"
                )
        values.append([_CELLS[cell] for cell in cells[1:]])
    return LabelTable(path, files.names, labels, np.array(values, np.int64).reshape(-1, len(labels)))
