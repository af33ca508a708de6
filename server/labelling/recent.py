"""The answers that are remembered for feedback: of each image its first classes, within bounds of number and age."""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimpse.models.labels import ClassLabel
from glimpse.server.domain import ModelIdentity
from glimpse.server.labelling.answered import FIRST, First

_NONE = 0xFFFFFFFF  # in place of a class


@dataclass(slots=True)
class Remembered:
    """The answer to one request."""

    model: ModelIdentity
    since: float  # on the clock
    classes: array[int]  # of each image the first `FIRST`, or `_NONE` in place of those that there are not
    labels: Sequence[ClassLabel]  # of the model, whose version may be gone by the time they are asked for
    told: int = 0  # bit by bit, the images whose true class has been told

    def __len__(self) -> int:
        """Images of the request."""
        return len(self.classes) // FIRST

    def first(self, image: int) -> dict[int, ClassLabel]:
        """The first classes of an image, in their order, by index; none where it was not classified."""
        found = self.classes[image * FIRST : image * FIRST + FIRST]
        return {each: self.labels[each] for each in found if each != _NONE}

    def tell(self, image: int) -> bool:
        """The true class of an image is told; whether for the first time."""
        before = self.told
        self.told |= 1 << image
        return self.told != before


class RecentAnswers:
    """Lives on the event loop."""

    def __init__(self, images: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember so many images at most, for so many seconds."""
        self._most, self._seconds, self._clock = images, seconds, clock
        self._requests: OrderedDict[str, Remembered] = OrderedDict()  # the oldest first
        self._images = 0

    def __len__(self) -> int:
        """Images that are remembered."""
        return self._images

    def remember(
        self, request_id: str, model: ModelIdentity, images: Sequence[First | None], labels: Sequence[ClassLabel]
    ) -> None:
        """Remember an answer; one that is known by the same id is forgotten. `labels` are the model's, not copied."""
        if (before := self._requests.pop(request_id, None)) is not None:
            self._images -= len(before)
        classes = array("I")
        for each in images:
            found = () if each is None else each.classes
            classes.extend((*found, *[_NONE] * (FIRST - len(found))))
        now = self._clock()
        self._requests[request_id] = Remembered(model, now, classes, labels)
        self._images += len(images)
        self._forget(now)

    def find(self, request_id: str) -> Remembered | None:
        """The answer to a request; None: it is not remembered."""
        self._forget(self._clock())
        return self._requests.get(request_id)

    def _forget(self, now: float) -> None:
        while self._requests:
            oldest = next(iter(self._requests.values()))
            if self._images <= self._most and now - oldest.since <= self._seconds:
                return
            self._requests.popitem(last=False)
            self._images -= len(oldest)
