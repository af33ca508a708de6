"""Class labels: the names of a network's outputs, in their order, as a text file of one class a line.

A line is ``label``, ``label<TAB>class_id`` or ``label<TAB>class_id<TAB>synonym, synonym``. A file may come from
anybody, so its size and its lines are limited.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files
from glimpse.models.files.bounded_files import shown

LABELS = "labels.txt"
LABELS_BYTES = 16 << 20  # of the file
MAX_LABELS = 100_000  # classes; the largest public data set of images has some 22,000
MAX_LABEL_LENGTH = 1_000  # characters of a line of the labels

_NAMED = 10  # names in a message
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class of a network's output."""

    label: str  # for people: "cat"
    class_id: str = ""  # stable id where the data set has one, for example WordNet's "n02123045"
    synonyms: tuple[str, ...] = ()  # other names of the class


def read_labels(path: Path, *, name: Path | None = None) -> tuple[ClassLabel, ...]:
    """Read the classes from a file. Blank lines at its end are ignored.

    Args:
        path: a file of at most `LABELS_BYTES` bytes and `MAX_LABELS` lines.
        name: the path that error messages show; `path` itself when None.

    Raises:
        BundleError: the file cannot be read, or a line is not one of a class.
    """
    try:
        text = bounded_files.read_text(path, LABELS_BYTES)
    except OSError as error:
        raise BundleError(
            f"The labels {name or path} cannot be read: {error.strerror or error}. A model needs a label for each of "
            "its classes, one a line."
        ) from error
    except ValueError as error:
        raise BundleError(f"The labels {name or path} cannot be read: {error}.") from error
    # Not `splitlines`, which also breaks at characters that a label may contain.
    lines = _LINE_END.split(text)
    while lines and not lines[-1].strip():
        del lines[-1]
    if len(lines) > MAX_LABELS:
        raise BundleError(f"{name or path} must name at most {MAX_LABELS:,} classes. Received: {len(lines):,} lines")
    try:
        return tuple(_labels(lines))
    except ValueError as error:
        raise BundleError(f"{name or path}: {error}") from error


def line_of(label: ClassLabel) -> str:
    """The line of a class in a file, without its end."""
    return "\t".join((label.label, label.class_id, ", ".join(label.synonyms))).rstrip("\t")


def indices(names: Iterable[str], labels: Sequence[ClassLabel], *, data: object, model: str) -> dict[str, int]:
    """The index of the class that each name means.

    A name may be a class's id, its label, one of the label's parts between commas, or a synonym. Upper and lower case,
    underscores and spaces, and accents as characters of their own or not, are the same, unless they tell two classes
    apart. A label comes before another class's synonym.

    Args:
        names: of classes, for example those of folders of images.
        labels: of the model, in the order of its output.
        data: where the names are from, for messages.
        model: its name, for messages.

    Raises:
        ValueError: the model does not know a class, or several of its classes have that name; the message names them.
    """
    tables = by_name(labels)
    found: dict[str, int] = {}
    unknown: list[str] = []
    shared: list[str] = []
    for name in sorted(set(names)):
        keys = (name, plain(name))
        places = next((at for table in tables for key in keys if (at := table.get(key))), set())
        if not places:
            unknown.append(name)
        elif len(places) > 1:
            shared.append(f"{name} ({', '.join(_shown(labels[place]) for place in sorted(places)[:_NAMED])})")
        else:
            found[name] = next(iter(places))
    if unknown:
        example = labels[0]
        either = f"{example.label!r} or {example.class_id!r}" if example.class_id else repr(example.label)
        raise ValueError(
            f"{data} has classes that {model} does not know: {some(unknown)}. A class is named by its label, a synonym "
            f"or its class id, for example {either}. Rename the folders, or leave them out."
        )
    if shared:
        raise ValueError(
            f"{data} has classes whose name several classes of {model} share: {some(shared)}. Name each by its class "
            "id, or leave it out."
        )
    return found


def counted(found: Sized, one: str, several: str) -> str:
    """How many there are, and the noun for it: `one` beside 1, else `several`."""
    return f"{len(found):,} {one if len(found) == 1 else several}"


def some(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are, for a message."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def by_name(labels: Sequence[ClassLabel]) -> tuple[dict[str, set[int]], ...]:
    """The places of the classes that have a name: as it is written, then in any way, then as a synonym."""
    exact, others, synonyms = (defaultdict[str, set[int]](set) for _ in range(3))
    for place, each in enumerate(labels):
        for name in filter(None, (each.class_id, each.label)):
            exact[name].add(place)
            others[plain(name)].add(place)
        for name in (*each.label.split(","), *each.synonyms):
            if key := plain(name):
                synonyms[key].add(place)
    return exact, others, synonyms


def plain(name: str) -> str:
    """A name as it is compared with others: without upper case and underscores, with single spaces, composed (NFC)."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def _shown(label: ClassLabel) -> str:
    return f"{label.class_id} {label.label}" if label.class_id else label.label


def check_labels(labels: Sequence[ClassLabel]) -> None:
    """Check that labels would be read back from a file as they were written to it.

    Raises:
        BundleError: one of them would not.
    """
    if len(labels) > MAX_LABELS:
        raise BundleError(f"A model may have at most {MAX_LABELS:,} labels. Received: {len(labels):,}")
    for label in labels:
        if not label.label.strip() or not all(
            map(_is_within_a_line, "".join((label.label, label.class_id, *label.synonyms)))
        ):
            raise BundleError(
                "A label must be one line of text without tabs or other control characters, in valid Unicode. "
                f"Received: {label.label!r}"
            )
        if any("," in synonym or not synonym.strip() for synonym in label.synonyms):
            raise BundleError(
                f"A synonym must be a text without commas, which separate them. Received: {label.synonyms!r}"
            )
        if len(line_of(label)) > MAX_LABEL_LENGTH:
            raise BundleError(
                f"A label, with its class id and synonyms, must have at most {MAX_LABEL_LENGTH:,} characters. "
                f"Received: {shown(label.label)}"
            )
        if label.label.startswith("\ufeff"):
            raise BundleError(f"A label cannot begin with a byte order mark. Received: {label.label!r}")


def _is_within_a_line(character: str) -> bool:
    """Whether it is neither a control character nor a separator of lines or paragraphs nor a lone surrogate."""
    return unicodedata.category(character) not in {"Cc", "Zl", "Zp", "Cs"}


def _labels(lines: Iterable[str]) -> Iterable[ClassLabel]:
    for number, line in enumerate(lines, start=1):
        label, class_id, synonyms, *more = (*line.split("\t"), *[""] * (2 - line.count("\t")))
        if not line.strip():
            raise ValueError(
                f"line {number} of the labels is blank, and every class needs a name. Give it one, or remove the line "
                "if the network has no such class."
            )
        if not label.strip() or more:
            raise ValueError(
                f"line {number} of the labels must be 'label', 'label<TAB>class_id' or "
                f"'label<TAB>class_id<TAB>synonym, synonym'. Received: {shown(line)}"
            )
        if len(line) > MAX_LABEL_LENGTH:
            raise ValueError(f"line {number} of the labels has more than {MAX_LABEL_LENGTH:,} characters")
        yield ClassLabel(label, class_id, tuple(filter(None, map(str.strip, synonyms.split(",")))))
