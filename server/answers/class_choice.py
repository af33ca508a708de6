"""Which classes of a model may answer a request, and what their answers are then.

The probabilities are softmax(logits / temperature) over the allowed classes alone, which is the model's probability of
each, given that it is one of them. What the model gives all other classes together is told beside it. The probabilities
of a multi-label model are each for itself: they stay as they are, and there is none of the others together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from glimpse.models.bundle import Bundle
from glimpse.models.class_names import ClassNames, UnknownClassError
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.domain import ClassChoice
from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.fields import Field

_KEPT = 64  # choices of a model that are remembered: callers ask for the same ones again
_SMALL = 256  # names of a choice that is remembered


@dataclass(frozen=True, slots=True)
class Chosen:
    """The classes of a model that may answer."""

    classes: NDArray[np.intp]  # indices, rising
    temperature: float  # of the model
    exclusive: bool = True  # the classes exclude each other; else the model is multi-label

    def probabilities(self, outputs: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], float | None]:
        """The probabilities among the chosen classes, float32 ``[classes]`` with 0 for the others; and what these have.

        Of a multi-label model these have no probability together, which is None then.

        Args:
            outputs: the logits and the probabilities of an image.
        """
        every = outputs[PROBABILITIES]
        found = np.zeros_like(every)
        if not self.exclusive:
            found[self.classes] = every[self.classes]
            return found, None
        scores = outputs[LOGITS][self.classes].astype(np.float64) / self.temperature
        raised = np.exp(scores - scores.max())
        found[self.classes] = raised / raised.sum()
        return found, max(0.0, 1.0 - float(every[self.classes].sum(dtype=np.float64)))


@dataclass(frozen=True, slots=True)
class Group:
    """A group of classes that an answer may be rolled up to."""

    name: str
    classes: NDArray[np.intp]  # indices, rising


class Classes:
    """The classes of a loaded model, by name."""

    def __init__(self, bundle: Bundle) -> None:
        """Take them from the model's bundle."""
        self._temperature, self._exclusive = bundle.temperature, bundle.head.exclusive
        # From which on each label of a multi-label model is told, float32 [classes]; None: it is another one.
        self.thresholds = None if bundle.head.exclusive else bundle.head.limits
        self._names = ClassNames(bundle.labels, {group.name: group.classes for group in bundle.groups})
        # The smallest first: an answer is rolled up no farther than necessary.
        ordered = sorted(bundle.groups, key=lambda group: len(group.classes))
        self.groups = tuple(Group(group.name, np.array(group.classes, np.intp)) for group in ordered)
        self._chosen = lru_cache(_KEPT)(self._choose)

    def find(self, name: str) -> frozenset[int]:
        """The indices of the classes that a name means, see `ClassNames.find`.

        Raises:
            UnknownClassError: expected; there are none.
        """
        return self._names.find(name)

    def chosen(self, choice: ClassChoice) -> Chosen:
        """The classes that a request chooses.

        Raises:
            InvalidRequestError: expected; UNKNOWN_CLASS.
        """
        small = len(choice.allow) + len(choice.deny) <= _SMALL
        try:
            return self._chosen(choice) if small else self._choose(choice)
        except UnknownClassError as error:
            raise InvalidRequestError(Reason.UNKNOWN_CLASS, str(error), field=self._blamed(choice)) from None

    def _blamed(self, choice: ClassChoice) -> Field:
        """Which of the two lists has an unknown name, or leaves no class."""
        try:
            self._names.choose(choice.allow, ())
        except UnknownClassError:
            return Field.ALLOW
        return Field.DENY

    def _choose(self, choice: ClassChoice) -> Chosen:
        found = self._names.choose(choice.allow, choice.deny)
        return Chosen(np.array(found, np.intp), self._temperature, self._exclusive)
