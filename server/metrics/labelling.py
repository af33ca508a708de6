"""The metrics of samples that are kept, and of feedback about answers."""

from __future__ import annotations

import threading
from collections import OrderedDict

from prometheus_client import CollectorRegistry, Counter, Gauge

REASONS = ("random", "near", "unknown", "disagreement")
CAUSES = ("busy", "rate", "unreadable", "disk")
OUTCOMES = ("first", "among_five", "other")  # where the true class was in the answer
REFUSALS = ("unknown_request", "unknown_class", "repeated")
_MOST_VERSIONS = 64  # of models, whose feedback is counted


class LabellingMetrics:
    """The instruments. For all threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make the instruments; series of samples are there from the start, at 0."""
        self._samples = Counter(
            "glimpse_samples",
            "Images that were kept as samples, by reason; one with several reasons counts for each.",
            ["reason"],
            registry=registry,
        )
        self._dropped = Counter(
            "glimpse_samples_dropped",
            "Images that were to be kept and were not, by cause: busy (more came than could be written), rate "
            "(GLIMPSE_SAMPLES_PER_MINUTE), unreadable (their metadata could not be taken out), disk (they could not be "
            "written).",
            ["cause"],
            registry=registry,
        )
        self.deleted = Counter(
            "glimpse_samples_deleted",
            "Samples that were deleted because of the limits of their number, bytes and age.",
            registry=registry,
        )
        self.images = Gauge("glimpse_samples_images", "Samples in the folder GLIMPSE_SAMPLES.", registry=registry)
        self.bytes = Gauge("glimpse_samples_bytes", "Bytes of all files of these samples.", registry=registry)
        self._feedback = Counter(
            "glimpse_feedback_images",
            "Images whose true class was told, by where it was in the answer: first, among_five (second to fifth) or "
            "other. Each image counts once.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self._refused = Counter(
            "glimpse_feedback_refused",
            "Feedback that was not counted: no answer of that request is remembered, the model has no such class, or "
            "the image has been counted before.",
            ["reason"],
            registry=registry,
        )
        for reason in REASONS:
            self._samples.labels(reason)
        for cause in CAUSES:
            self._dropped.labels(cause)
        for refusal in REFUSALS:
            self._refused.labels(refusal)
        self._versions: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()  # of these: the event loop counts, and the thread that writes samples

    def kept(self, reason: str) -> None:
        """A sample was kept for one of `REASONS`."""
        self._samples.labels(reason).inc()

    def dropped(self, cause: str) -> None:
        """An image was not kept, for one of `CAUSES`."""
        self._dropped.labels(cause).inc()

    def told(self, model: str, version: str, outcome: str) -> None:
        """The true class of an image was told; `outcome` is one of `OUTCOMES`."""
        with self._lock:
            if (model, version) not in self._versions:
                for each in OUTCOMES:
                    self._feedback.labels(model, version, each)
                self._versions[model, version] = None
                while len(self._versions) > _MOST_VERSIONS:
                    oldest, _ = self._versions.popitem(last=False)
                    for each in OUTCOMES:
                        self._feedback.remove(*oldest, each)
            self._feedback.labels(model, version, outcome).inc()

    def refused(self, reason: str) -> None:
        """Feedback was not counted, for one of `REFUSALS`."""
        self._refused.labels(reason).inc()
