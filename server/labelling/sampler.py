"""Which of the images that were answered are worth a label, and so are kept.

Where two classes are nearly as probable, a label teaches most: margin sampling (Scheffer, Decomain and Wrobel, "Active
hidden Markov models for information extraction", 2001; Settles, "Active learning literature survey", 2009, section
3.1). A random share is kept besides, because a model is certain of some of its errors, and accuracy is measured by it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from glimpse.models.bundle import Bundle
from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.domain import Classification, Image, apart
from glimpse.server.labelling.answered import First, sample_name
from glimpse.server.labelling.writer import Sample, Writer
from glimpse.server.metrics.labelling import LabellingMetrics
from glimpse.server.settings.labelling import LabellingSettings

_BURST_SECONDS = 60.0  # for as long as nothing is kept, so much of the rate is saved up

# Told the version that has named another class, that class, and its probability there.
Disagreed = Callable[[str, ClassLabel, float], None]


class _Rate:
    """So many a minute, and as many at once after a pause."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_second, self._most = per_minute / 60, per_minute * _BURST_SECONDS / 60
        self._clock = clock
        self._left, self._since = self._most, clock()

    def take(self) -> bool:
        """Whether there is another one."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Answered:
    """One image that was answered."""

    request_id: str
    number: int  # in its request, from 0
    image: Image
    answer: Classification
    first: First


class Sampler:
    """Chooses; what it has chosen is written elsewhere. Lives on the event loop."""

    def __init__(
        self,
        settings: LabellingSettings,
        writer: Writer,
        metrics: LabellingMetrics,
        *,
        sample: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose as the settings say; `sample` gives numbers from 0 to 1, `clock` seconds."""
        self._reasons = settings.samples_reasons
        self._share = settings.samples_share if "random" in self._reasons else 0.0
        self._margin = settings.samples_margin
        self._writer, self._metrics, self._sample = writer, metrics, sample
        self._rate = _Rate(settings.samples_per_minute, clock)

    def needs(self, bundle: Bundle) -> frozenset[str]:
        """The outputs of a model by which images are chosen."""
        judged = self._reasons & {"near", "unknown"}
        needed = bundle.novelty.needs if judged and bundle.novelty is not None else frozenset[str]()
        return needed | {PROBABILITIES}

    def offer(self, answered: Answered) -> None:
        """Have an image kept, if there is a reason."""
        if reasons := self._why(answered.first):
            self._keep(answered, reasons)

    def disagreed(self, answered: Answered) -> Disagreed | None:
        """What is to be called if another version names another class; None: such images are not kept."""
        if "disagreement" not in self._reasons:
            return None

        def keep(version: str, label: ClassLabel, probability: float) -> None:
            other = {"version": version, "label": label.label, "probability": round(probability, 6)}
            self._keep(answered, ["disagreement"], other=other)

        return keep

    def _why(self, first: First) -> list[str]:
        reasons, novelty = [], first.novelty
        if self._share and self._sample() < self._share:
            reasons.append("random")
        if "near" in self._reasons and (first.margin < self._margin or first.at_threshold):
            reasons.append("near")
        if "unknown" in self._reasons and novelty is not None and not novelty.known:
            reasons.append("unknown")
        return reasons

    def _keep(self, answered: Answered, reasons: list[str], **more: Any) -> None:
        if not self._rate.take():
            self._metrics.dropped("rate")
            return
        model, first = answered.answer.model, answered.first
        novelty = first.novelty
        facts = {
            "request_id": answered.request_id,
            "image": answered.number,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {"name": model.name, "version": model.version, "weights_digest": model.weights_digest},
            "first": first.told(answered.answer.labels),
            "novelty": None
            if novelty is None
            else {"score": round(novelty.score, 6), "threshold": novelty.threshold, "known": novelty.known},
            "reasons": reasons,
            **more,
            "true_class": None,
        }
        self._writer.put(Sample(sample_name(answered.request_id, answered.number), apart(answered.image), facts))
