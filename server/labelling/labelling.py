"""All of it in one object, for the code that serves calls: what is kept of answers, and what callers say of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from glimpse.models.bundle import Bundle
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.domain import Classification, ClassifyRequest, Image
from glimpse.server.labelling.answered import first_of
from glimpse.server.labelling.feedback import Feedback
from glimpse.server.labelling.folder import POSSIBLE, Limits, SampleFolder
from glimpse.server.labelling.recent import RecentAnswers
from glimpse.server.labelling.sampler import Answered, Disagreed, Sampler
from glimpse.server.labelling.writer import Writer
from glimpse.server.metrics.labelling import LabellingMetrics
from glimpse.server.processes.startup import StartupError
from glimpse.server.registry import ModelRegistry
from glimpse.server.settings import Settings

_DAY, _HOUR = 86_400.0, 3600.0  # seconds
_PROBABILITIES = frozenset({PROBABILITIES})


class Labelling:
    """Lives on the event loop."""

    def __init__(
        self, sampler: Sampler | None, writer: Writer | None, recent: RecentAnswers | None, feedback: Feedback | None
    ) -> None:
        """Put the parts together; those that are not asked for are None."""
        self._sampler, self._writer, self._recent = sampler, writer, recent
        self.feedback = feedback

    @classmethod
    def of(
        cls,
        settings: Settings,
        access: AccessControl,
        registry: ModelRegistry,
        metrics: LabellingMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Self | None:
        """As the settings ask for it; None: they ask for nothing, and nothing is kept of any answer.

        Raises:
            StartupError: expected; this system cannot keep samples.
        """
        if settings.samples is not None and not POSSIBLE:
            raise StartupError("This system has no file locks, which samples need. Unset GLIMPSE_SAMPLES.")
        sampler = writer = recent = feedback = None
        if settings.samples is not None:
            limits = Limits(settings.samples_max_images, settings.samples_max_bytes, settings.samples_max_days * _DAY)
            writer = Writer(SampleFolder(settings.samples, limits, clock=clock), metrics)
            sampler = Sampler(settings, writer, metrics)
        if settings.feedback:
            recent = RecentAnswers(settings.feedback_images, settings.feedback_hours * _HOUR)
            feedback = Feedback(access, registry, recent, metrics, writer)
        return None if sampler is None and feedback is None else cls(sampler, writer, recent, feedback)

    def needs(self, bundle: Bundle) -> frozenset[str]:
        """The outputs of a model that are looked at."""
        return _PROBABILITIES if self._sampler is None else self._sampler.needs(bundle)

    def answered(self, request: ClassifyRequest, call: CallContext, answer: Classification) -> Classification:
        """Look at the answer to a request; returned with the id by which feedback may name it, where that is taken."""
        request_id = call.answer_id
        found = [first_of(answer, number) for number in range(len(answer.results))]
        if self._sampler is not None:
            for number, (image, first) in enumerate(zip(request.images, found, strict=True)):
                if first is not None:
                    self._sampler.offer(Answered(request_id, number, image, answer, first))
        if self._recent is None:
            return answer
        self._recent.remember(request_id, answer.model, found, answer.labels)
        return replace(answer, request_id=request_id)

    def disagreed(self, image: Image, call: CallContext, answer: Classification, number: int) -> Disagreed | None:
        """What is to be called if another version names another class for an image; None: nobody has to know.

        Args:
            image: which is kept until then.
            call: that has asked.
            answer: to all of its images.
            number: of the image among them.
        """
        if self._sampler is None or (first := first_of(answer, number)) is None:
            return None
        return self._sampler.disagreed(Answered(call.answer_id, number, image, answer, first))

    def start(self) -> None:
        """Begin to write samples."""
        if self._writer is not None:
            self._writer.start()

    def close(self, seconds: float) -> None:
        """Write the samples that wait, for so many seconds at most."""
        if self._writer is not None:
            self._writer.close(seconds)
