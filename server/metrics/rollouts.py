"""The metrics of new versions that answer a part of a model's requests, or copies of them."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

CAUSES = ("errors", "disagreement", "command")
_OUTCOMES = ("answered", "failed")
_AGREES = {True: "yes", False: "no"}


class RolloutMetrics:
    """The instruments. A series is there from when its rollout begins, at 0."""

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        """Make the instruments; `buckets` are the upper bounds of times in seconds."""
        self._there: set[tuple[str, str, str]] = set()  # labels of which there are series
        of = ["model", "version", "rollout"]
        self.share = Gauge(
            "glimpse_rollout_share",
            "Share of the requests without a version that a canary answers, or that are copied to a shadow, from 0 to "
            "1; 0: it was rolled back.",
            of,
            registry=registry,
        )
        self.min_agreement = Gauge(
            "glimpse_rollout_min_agreement",
            "Smallest share of compared images for which both versions have to name the same first class.",
            of,
            registry=registry,
        )
        self.answers = Counter(
            "glimpse_rollout_answers",
            "Requests that the new version and the usual one have answered during a canary, and images that they have "
            "classified for a shadow, by outcome.",
            [*of, "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "glimpse_rollout_seconds",
            "Time that answers of the new version and of the usual one took. Of a canary: a request, from its "
            "beginning until it is classified. Of a shadow: an image, without waiting.",
            of,
            buckets=buckets,
            registry=registry,
        )
        self.compared = Counter(
            "glimpse_rollout_compared_images",
            "Images that the new version and the usual one have classified, by whether both name the same first class.",
            [*of, "agrees"],
            registry=registry,
        )
        self.difference = Summary(
            "glimpse_rollout_probability_difference",
            "Absolute difference of the two versions' probabilities for the class that was answered first.",
            of,
            registry=registry,
        )
        self.dropped = Counter(
            "glimpse_rollout_dropped_images",
            "Copied images that were not compared, because the server had other work or the version was not loaded.",
            of,
            registry=registry,
        )
        self.rollbacks = Counter(
            "glimpse_rollbacks",
            "Canaries that were rolled back, by cause.",
            ["model", "version", "cause"],
            registry=registry,
        )

    def began(self, labels: tuple[str, str, str], share: float, min_agreement: float | None) -> None:
        """A rollout (model, version, kind) began or has other terms."""
        self._there.add(labels)
        self.share.labels(*labels).set(share)
        if min_agreement is None:
            with contextlib.suppress(KeyError):
                self.min_agreement.remove(*labels)
        else:
            self.min_agreement.labels(*labels).set(min_agreement)
        for outcome in _OUTCOMES:
            self.answers.labels(*labels, outcome)
        for agrees in _AGREES.values():
            self.compared.labels(*labels, agrees)
        self.difference.labels(*labels)
        self.dropped.labels(*labels)
        for cause in CAUSES:
            self.rollbacks.labels(*labels[:2], cause)

    def ended(self, labels: tuple[str, str, str]) -> None:
        """A rollout ended; what was counted stays."""
        for gauge in (self.share, self.min_agreement):
            with contextlib.suppress(KeyError):
                gauge.remove(*labels)

    def answered(self, labels: tuple[str, str, str], seconds: float, *, ok: bool) -> None:
        """A request of a canary, or an image of a shadow, was answered by the version in `labels`, or failed."""
        self._there.add(labels)
        self.answers.labels(*labels, _OUTCOMES[not ok]).inc()
        if ok:
            self.seconds.labels(*labels).observe(seconds)

    def compare(self, labels: tuple[str, str, str], difference: float, *, agrees: bool) -> None:
        """An image was classified by both versions."""
        self.compared.labels(*labels, _AGREES[agrees]).inc()
        self.difference.labels(*labels).observe(difference)

    def keep(self, versions: Container[tuple[str, str]]) -> None:
        """Remove the series of all other versions, each (model, version): they are gone."""
        for labels in [each for each in self._there if each[:2] not in versions]:
            self._there.remove(labels)
            for one in (self.share, self.min_agreement, self.seconds, self.difference, self.dropped):
                _remove(one, *labels)
            for outcome in _OUTCOMES:
                _remove(self.answers, *labels, outcome)
            for agrees in _AGREES.values():
                _remove(self.compared, *labels, agrees)
            for cause in CAUSES:
                _remove(self.rollbacks, *labels[:2], cause)


def _remove(metric: Counter | Gauge | Histogram | Summary, *labels: str) -> None:
    with contextlib.suppress(KeyError):  # there is none
        metric.remove(*labels)
