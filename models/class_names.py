"""Which classes a name means: by label, class id, group, synonym or index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from glimpse.models.files.bounded_files import shown
from glimpse.models.labels import MAX_LABEL_LENGTH, ClassLabel, by_name, plain
from glimpse.models.suggestions import nearest

_COMPARED = 200  # names that are compared with an unknown one: comparing all of thousands would take long
_LONGEST = 100  # characters of a name that is compared


class UnknownClassError(ValueError):
    """Expected: no class has the name; the message has a similar one."""


class ClassNames:
    """The names of a model's classes, and of their groups."""

    def __init__(self, labels: Sequence[ClassLabel], groups: Mapping[str, Iterable[int]] | None = None) -> None:
        """Take the labels, in the order of the network's output, and the groups by name with their indices."""
        self._labels = labels
        self._groups = {plain(name): frozenset(classes) for name, classes in (groups or {}).items()}
        self.number = len(labels)

    def find(self, name: str) -> frozenset[int]:
        """The indices of the classes that a name means; a label of several classes means all of them.

        Upper and lower case, and underscores and spaces, are the same, unless they tell two classes apart. A label or
        id comes before a group, a group before a synonym, and an index last.

        Raises:
            UnknownClassError: expected; there are none.
        """
        exact, others, synonyms = self._tables
        key = plain(name) if len(name) <= MAX_LABEL_LENGTH else ""  # no class has a longer name
        found = exact.get(name) or others.get(key) or self._groups.get(key) or synonyms.get(key)
        if found:
            return frozenset(found)
        if name.isdecimal() and len(name) < 10 and int(name) < self.number:
            return frozenset([int(name)])
        raise UnknownClassError(f"There is no class or group {shown(name)}.{self._suggestion(key)}")

    def choose(self, allow: Sequence[str], deny: Sequence[str]) -> tuple[int, ...]:
        """The indices of the classes that are allowed, all where `allow` is empty, without the denied ones; rising.

        Raises:
            UnknownClassError: expected; a name is not known, or no class is left.
        """
        chosen = frozenset().union(*map(self.find, allow)) if allow else frozenset(range(self.number))
        left = chosen.difference(*map(self.find, deny))
        if not left:
            raise UnknownClassError("All classes that may answer are denied. Deny fewer, or allow more.")
        return tuple(sorted(left))

    @cached_property
    def _tables(self) -> tuple[dict[str, set[int]], ...]:
        return by_name(self._labels)

    def _suggestion(self, key: str) -> str:
        """A sentence with a similar name; empty where there is none."""
        if not key or len(key) > _LONGEST:
            return ""
        every = dict.fromkeys([*self._groups, *(name for table in self._tables[1:] for name in table)])
        alike = [name for name in every if name[0] == key[0] or key in name]
        alike.sort(key=lambda name: (name[:2] != key[:2], abs(len(name) - len(key))))
        return nearest(key, alike[:_COMPARED])
