"""Labels as the metadata of other programs have them: a list, or a mapping from indices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from glimpse.models.files.bounded_files import shown
from glimpse.models.labels import MAX_LABEL_LENGTH, MAX_LABELS, ClassLabel, check_labels

_WORDNET = re.compile(r"n\d{8}")


def labels_of(values: Any, descriptions: Mapping[str, Any] | None = None) -> tuple[ClassLabel, ...]:
    """The labels of a list of names, or of a mapping from every index to its name, such as ``{"0": "cat"}``.

    Args:
        values: the names. A name with commas is a label and its synonyms, as ImageNet's are.
        descriptions: what names that are ids stand for; None: nothing.

    Raises:
        ValueError: it is no list or mapping of names, has no names, or does not have every index.
        BundleError: a name cannot be a label.
    """
    if isinstance(values, Mapping):
        values = _in_order(values)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"a list of names is expected. Received: {shown(values)}")  # noqa: TRY004 - what a file holds
    if not 0 < len(values) <= MAX_LABELS:
        raise ValueError(f"1 to {MAX_LABELS:,} names are expected. Received: {len(values):,}")
    if strange := [each for each in values if not isinstance(each, str) or len(each) > MAX_LABEL_LENGTH]:
        raise ValueError(
            f"a name is expected, a text of at most {MAX_LABEL_LENGTH} characters. Received: {shown(strange[0])}"
        )
    found = tuple(_label(" ".join(each.split()), descriptions or {}) for each in values)
    check_labels(found)
    return found


def _in_order(values: Mapping[Any, Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for key, value in values.items():
        if not (isinstance(key, int) or (isinstance(key, str) and re.fullmatch(r"[0-9]{1,9}", key))):
            raise ValueError(f"an index is expected for each name. Received: {shown(key)}")
        found[int(key)] = value
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"a name is expected for each index from 0 to {len(found) - 1}. Received: {shown(values)}")
    return [found[index] for index in range(len(found))]


def _label(name: str, descriptions: Mapping[str, Any]) -> ClassLabel:
    described = descriptions.get(name)
    class_id = ""
    if isinstance(described, str) and described.strip() and len(described) <= MAX_LABEL_LENGTH:
        class_id, name = name, " ".join(described.split())
    elif _WORDNET.fullmatch(name.split(" ", 1)[0]) and " " in name:
        class_id, name = name.split(" ", 1)
    label, *synonyms = (part.strip() for part in name.split(","))
    if not label:
        label, synonyms = name, []
    return ClassLabel(label, class_id, tuple(filter(None, synonyms)))
