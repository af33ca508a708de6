"""Named groups of a model's classes: with ImageNet, "dog" means 118 breeds.

``groups.toml`` lies beside the weights. It has a list for each group, of indices, ranges of indices (``"151-268"``),
labels, synonyms, class ids, and groups that stand above it in the file:

    dog = ["151-268"]
    pet = ["dog", "tabby", "n02123394"]

Models that have no such file, but classes of ImageNet by their WordNet ids, have the groups of
``published/groups/imagenet1000.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glimpse.models import messages
from glimpse.models.class_names import ClassNames, UnknownClassError
from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files
from glimpse.models.files.bounded_files import shown
from glimpse.models.labels import ClassLabel, read_labels

GROUPS = "groups.toml"
_BYTES = 1 << 20  # of the file
_MOST = 1_000  # groups
_MOST_MEMBERS = 500_000  # of all groups together, each class as often as it is named: a description has them all
_NAME = 100  # characters of a group's name
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
_WORDNET = re.compile(r"n\d{8}")
_PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True, slots=True)
class ClassGroup:
    """A named group of classes."""

    name: str
    classes: tuple[int, ...]  # indices, rising; at least one


def groups_of(folder: Path, labels: Sequence[ClassLabel]) -> tuple[ClassGroup, ...]:
    """The groups of a model whose weights lie in a folder.

    Raises:
        BundleError: the file in it cannot be used.
    """
    path = folder / GROUPS
    if not path.is_file():
        return _of_imagenet(labels)
    try:
        text = bounded_files.read_text(bounded_files.inside(folder, GROUPS), _BYTES)
        return _groups(bounded_files.parse_toml(text), labels)
    except (OSError, ValueError) as error:
        raise BundleError(f"The groups {path} cannot be used: {messages.short(error)}") from error


def _groups(values: Mapping[str, object], labels: Sequence[ClassLabel]) -> tuple[ClassGroup, ...]:
    if len(values) > _MOST:
        raise ValueError(f"there may be at most {_MOST} groups. Received: {len(values)}")
    names, found = ClassNames(labels), dict[str, frozenset[int]]()
    named = 0  # classes, each as often as it is
    for name, members in values.items():
        if not name.strip() or len(name) > _NAME or not name.isprintable():
            raise ValueError(f"a group's name must be 1 to {_NAME} printable characters. Received: {shown(name)}")
        if not isinstance(members, list) or not members:
            raise ValueError(f"the group {shown(name)} must be a list of classes. Received: {shown(members)}")
        classes = set[int]()
        for member in members:
            classes |= (members_of := _members(member, names, found))
            named += len(members_of)
            if named > _MOST_MEMBERS:
                raise ValueError(f"all groups together may name at most {_MOST_MEMBERS:,} classes")
        found[name] = frozenset(classes)
    return tuple(ClassGroup(name, tuple(sorted(classes))) for name, classes in found.items())


def _members(member: object, names: ClassNames, groups: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """The indices that one entry of a group means.

    Raises:
        ValueError: it means none.
    """
    if isinstance(member, int) and not isinstance(member, bool):
        if not 0 <= member < names.number:
            raise UnknownClassError(f"an index must be from 0 to {names.number - 1}. Received: {shown(member)}")
        return frozenset([member])
    if not isinstance(member, str):
        raise UnknownClassError(f"a class must be an index or a text. Received: {shown(member)}")
    if member in groups:
        return groups[member]
    if (span := _RANGE.fullmatch(member)) is not None:
        first, last = map(int, span.groups())
        if not first <= last < names.number:
            raise UnknownClassError(f"the range {member} must rise within the indices 0 to {names.number - 1}")
        return frozenset(range(first, last + 1))
    return names.find(member)


def _of_imagenet(labels: Sequence[ClassLabel]) -> tuple[ClassGroup, ...]:
    """Those of ImageNet, as far as the classes are among `labels` by their WordNet ids; groups of one are left out."""
    places = {label.class_id: place for place, label in enumerate(labels) if _WORDNET.fullmatch(label.class_id)}
    if not places:
        return ()
    found = ((name, sorted(places[each] for each in ids if each in places)) for name, ids in _imagenet())
    return tuple(ClassGroup(name, tuple(classes)) for name, classes in found if len(classes) > 1)


@cache
def _imagenet() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The name of each group, and the WordNet ids of its classes."""
    labels = read_labels(_PUBLISHED / "labels" / "imagenet1000.txt")
    text = bounded_files.read_text(_PUBLISHED / "groups" / "imagenet1000.toml")
    groups = _groups(bounded_files.parse_toml(text), labels)
    return tuple((group.name, tuple(labels[each].class_id for each in group.classes)) for group in groups)
