"""Feedback: the true class of an image that was answered, compared with the answer.

Where a server has several workers, the one that has answered compares and counts (`exchange`). An answer that nobody
remembers any more may still lie in the folder of samples; there, the true class is written down as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import structlog

from glimpse.models.class_names import UnknownClassError
from glimpse.models.labels import MAX_LABEL_LENGTH, ClassLabel
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.domain import ModelIdentity, ModelSelector
from glimpse.server.errors import ServiceError
from glimpse.server.labelling.answered import sample_name
from glimpse.server.labelling.folder import Facts, SampleFolder
from glimpse.server.labelling.recent import RecentAnswers
from glimpse.server.labelling.writer import Writer
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.metrics.labelling import LabellingMetrics
from glimpse.server.registry import ModelRegistry

_log = structlog.get_logger(__name__)

MOST_AT_ONCE = 64  # images in one call
_DISK_SECONDS = 5.0  # that the caller waits for the folder of samples, with all images together


class Outcome(StrEnum):
    """What became of the true class of one image."""

    FIRST = "first"  # it was the first class of the answer
    AMONG_FIVE = "among_five"  # it was the second to the fifth
    OTHER = "other"  # it was none of these
    UNKNOWN_REQUEST = "unknown_request"  # no answer of that request and image is remembered
    UNKNOWN_CLASS = "unknown_class"  # the model has no such class
    REPEATED = "repeated"  # the image has been counted before; a sample of it has the new class now


@dataclass(frozen=True, slots=True)
class TrueClass:
    """What an image really shows."""

    request_id: str
    image: int  # its number in the request, from 0
    name: str  # of the class
    new_class: bool = False  # the model has no such class yet


@dataclass(frozen=True, slots=True)
class Told:
    """What became of it."""

    outcome: Outcome
    label: str = ""  # of the class, as the model calls it; empty where the class or the answer is not known
    kept: bool = False  # a sample of the image has the true class now


Ask = Callable[[Sequence[TrueClass]], Awaitable[list[Told | None]]]
_UNKNOWN = Told(Outcome.UNKNOWN_REQUEST)


class Feedback:
    """Lives on the event loop."""

    def __init__(
        self,
        access: AccessControl,
        registry: ModelRegistry,
        recent: RecentAnswers,
        metrics: LabellingMetrics,
        writer: Writer | None,
    ) -> None:
        """Take feedback from those whom `access` permits it; `writer`: of the samples, None: none are kept."""
        self._access, self._registry, self._recent = access, registry, recent
        self._metrics, self._writer = metrics, writer
        self.ask: Ask | None = None  # asks the other workers of the server; None: there are none

    async def give(self, call: CallContext, classes: Sequence[TrueClass]) -> list[Told]:
        """Compare true classes with the answers; each has an outcome of its own.

        Raises:
            PermissionDeniedError: expected; the caller may not give feedback.
        """
        self._access.check_feedback(call)
        told = [self.compare(each) for each in classes]
        if self.ask is not None:
            await self._fill(told, classes, self.ask)
        end = time.monotonic() + _DISK_SECONDS
        found = [
            await self._with_sample(given, _UNKNOWN if each is None else each, end)
            for given, each in zip(classes, told, strict=True)
        ]
        for each in found:
            if each.outcome in _REFUSED:
                self._metrics.refused(each.outcome.value)
        return found

    def compare(self, given: TrueClass) -> Told | None:
        """Compare with an answer of this process, and count it; None: it has none of that request and image."""
        remembered = self._recent.find(given.request_id)
        if remembered is None or given.image >= len(remembered):
            return None
        first = remembered.first(given.image)
        if not first:
            return None
        model = remembered.model
        try:
            label, indices = self._class(given, model, first)
        except UnknownClassError:
            return Told(Outcome.UNKNOWN_CLASS)
        if not remembered.tell(given.image):
            return Told(Outcome.REPEATED, label)
        return self._count(model, label, first, indices)

    async def _fill(self, told: list[Told | None], classes: Sequence[TrueClass], ask: Ask) -> None:
        """Have the other workers compare what this one does not know."""
        missing = [number for number, each in enumerate(told) if each is None]
        if missing:
            for number, each in zip(missing, await ask([classes[number] for number in missing]), strict=True):
                told[number] = each

    async def _with_sample(self, given: TrueClass, told: Told, end: float) -> Told:
        """Write the true class into the sample of the image, if there is one, and the disk does so before `end`.

        Where nobody remembers the answer, the true class is compared with that of the sample.
        """
        if self._writer is None or told.outcome is Outcome.UNKNOWN_CLASS:
            return told
        name = sample_name(given.request_id, given.image)

        def write(folder: SampleFolder) -> Told:
            found, label = told, told.label
            if told.outcome is Outcome.UNKNOWN_REQUEST:
                facts = folder.facts(name)
                if facts is None:
                    return told
                found = self._compared(given, facts)
                label = found.label
            return replace(found, kept=folder.label(name, label)) if label else found

        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._writer.call(write)), end - time.monotonic())
        except (OSError, ValueError, KeyError, TypeError) as error:  # TimeoutError among them
            _log.warning("a true class was not written to its sample", detail=str(error))
            return told

    def _compared(self, given: TrueClass, facts: Facts) -> Told:
        """Compare with the answer that is in the file of a sample; in the thread of the writer.

        Raises:
            ValueError, KeyError, TypeError: expected; the file was changed by somebody.
        """
        model = ModelIdentity(*(str(facts["model"][each]) for each in ("name", "version", "weights_digest")))
        first = {int(each["index"]): ClassLabel(str(each["label"]), str(each["class_id"])) for each in facts["first"]}
        if not first:
            raise ValueError("the sample has no classes")
        try:
            label, indices = self._class(given, model, first)
        except UnknownClassError:
            return Told(Outcome.UNKNOWN_CLASS)
        if facts.get("true_class"):
            return Told(Outcome.REPEATED, label)
        return self._count(model, label, first, indices)

    def _count(
        self, model: ModelIdentity, label: str, first: Mapping[int, ClassLabel], indices: frozenset[int]
    ) -> Told:
        if next(iter(first)) in indices:
            outcome = Outcome.FIRST
        else:
            outcome = Outcome.OTHER if indices.isdisjoint(first) else Outcome.AMONG_FIVE
        self._metrics.told(model.name, model.version, outcome.value)
        return Told(outcome, label)

    def _class(
        self, given: TrueClass, model: ModelIdentity, first: Mapping[int, ClassLabel]
    ) -> tuple[str, frozenset[int]]:
        """The label of the class, and the indices that have it in the answer; none of a new class.

        Args:
            given: the true class.
            model: that has answered.
            first: the first classes of its answer, by index.

        Raises:
            UnknownClassError: expected; the model has no such class, the name means several classes, or it could not
                be the name of a new one.
        """
        if given.new_class:
            name = given.name.strip()
            if not name.isprintable() or not 0 < len(name) <= MAX_LABEL_LENGTH:
                raise UnknownClassError("This cannot be the name of a class.")
            return name, frozenset()
        loaded = self._model(model.name, model.version)
        indices = loaded.classes.find(given.name)
        found = [loaded.bundle.labels[index] for index in indices]
        label, *more = {each.label for each in found}
        if more:
            raise UnknownClassError("This is the name of a group of classes.")
        if loaded.identity != model:  # the classes of which may be in another order
            names = {each.class_id or each.label for each in found}
            indices = frozenset(index for index, each in first.items() if (each.class_id or each.label) in names)
        return label, indices

    def _model(self, name: str, version: str) -> LoadedModel:
        """The version that has answered, or else the one that answers now.

        Raises:
            UnknownClassError: expected; the model is not loaded.
        """
        for selector in (ModelSelector(name, version), ModelSelector(name)):
            try:
                return self._registry.resolve(selector)
            except ServiceError:
                continue
        raise UnknownClassError("The model is not loaded.")


_REFUSED = frozenset((Outcome.UNKNOWN_REQUEST, Outcome.UNKNOWN_CLASS, Outcome.REPEATED))
