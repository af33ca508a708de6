"""What a server sees of images and answers, counted for metrics, and how far it is from the reference of the model.

Counts are kept as arrays and are updated for many images at once: an image costs the few figures that are taken of it
in its decoder thread, and a part of one update. Only with GLIMPSE_DRIFT; else nothing here is called.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from glimpse.models import drift
from glimpse.models.bundle import Bundle
from glimpse.models.drift import CLASS, ImageFigures, Reference
from glimpse.models.outputs import PROBABILITIES, Outputs
from glimpse.server.domain import ModelIdentity

FEWEST_IMAGES: Final = 200  # in the window, from which on it is compared with the reference
_TOGETHER = 64  # images whose counts are updated at once
_SLOTS = 60  # parts of the window, the oldest of which is forgotten as a whole
# That are watched at once, each with up to 200 kB. One more is watched in the place of one that has answered nothing
# within the window; where all have, it is not: counts that take turns would say nothing of any model.
_MOST_MODELS = 128
_LOOK_AGAIN = 1.0  # seconds until it is looked again whether there is a place
_OTHER = "other"

_SHARES = (*(each / 20 for each in range(1, 20)), 0.99, 1.0)
# Of what the histograms are, by the figure: the metric's name, its help, and its buckets.
_HISTOGRAMS: Final[Mapping[str, tuple[str, str, tuple[float, ...]]]] = {
    "top_probability": ("glimpse_answer_top_probability", "Probability of the first class, 0 to 1.", _SHARES),
    "margin": ("glimpse_answer_margin", "By how much the first class is more probable than the second.", _SHARES),
    "entropy": ("glimpse_answer_entropy", "Entropy of all probabilities, as a share of the highest possible.", _SHARES),
    "brightness": ("glimpse_image_brightness", "Mean of the network's input, 0 to 255.", tuple(range(15, 256, 15))),
    "sharpness": (
        "glimpse_image_sharpness",
        "Mean difference of neighbouring pixels of the network's input, 0 to 255.",
        (0.5, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25, 30, 40, 60, 100),
    ),
    "colour": (
        "glimpse_image_red_minus_blue",
        "Mean red minus mean blue of the network's input, -255 to 255.",
        (-128, -64, -48, -32, -24, -16, -8, -4, 0, 4, 8, 16, 24, 32, 48, 64, 128),
    ),
    "size": (
        "glimpse_image_pixels",
        "Width x height of images as they came.",
        tuple(float(1 << power) for power in range(10, 28)),
    ),
}


class Seen(NamedTuple):
    """One image that was answered."""

    figures: ImageFigures
    size: int  # width x height of the image as it came; 0: not known
    outputs: Outputs  # probabilities, and what the score of novelty needs where the model has a threshold


class ModelDrift:
    """What is seen of one model. For all threads."""

    def __init__(self, bundle: Bundle, *, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing seen.

        Args:
            bundle: of the model, with its reference, if it has one.
            window: seconds that are compared with the reference.
            clock: in seconds.
        """
        self.identity = ModelIdentity(bundle.name, bundle.version, bundle.weights_digest)
        self._bundle = bundle
        self.needs = frozenset({PROBABILITIES}) | (bundle.novelty.needs if bundle.novelty else frozenset())
        self._reference, self._novelty = bundle.drift, bundle.novelty
        self._clock, self._slot_seconds = clock, window / _SLOTS
        few = len(bundle.labels) <= drift.MOST_CLASSES
        indices = tuple(bundle.drift.classes) if bundle.drift else range(len(bundle.labels) if few else 0)
        self._names = [*_names(bundle, indices), _OTHER]
        self._place = np.full(len(bundle.labels), len(indices))
        self._place[list(indices)] = range(len(indices))
        self._classes = np.zeros(len(self._names), np.int64)
        self._unknown = self._images = 0
        self._buckets = {name: np.zeros(len(row[2]) + 1, np.int64) for name, row in _HISTOGRAMS.items()}
        self._sums = dict.fromkeys(_HISTOGRAMS, 0.0)
        self._slots: deque[tuple[int, dict[str, NDArray[np.int64]], int]] = deque()
        self._waiting: list[Seen] = []
        self._lock = threading.Lock()
        self._answered = clock()  # when it answered last, or was first asked

    def idle(self, seconds: float) -> bool:
        """Whether it has answered nothing for so long."""
        return self._clock() - self._answered >= seconds

    def is_of(self, bundle: Bundle) -> bool:
        """Whether it is of this very model; one that was calibrated anew has the same weights, and is another."""
        if bundle is not self._bundle:
            if (bundle.novelty, bundle.drift, bundle.labels) != (self._novelty, self._reference, self._bundle.labels):
                return False
            self._bundle = bundle  # loaded once more
        return True

    def add(self, seen: Sequence[Seen]) -> None:
        """Count images that were answered; what is counted may wait for others, and for the next scrape at most."""
        with self._lock:
            self._answered = self._clock()
            self._waiting += seen
            if len(self._waiting) >= _TOGETHER:
                self._count()

    def indices(self) -> dict[str, float]:
        """By the name of each figure, the stability index of the window; empty while it has too few images."""
        with self._lock:
            self._count()
            self._forget()
            if self._reference is None or sum(images for _, _, images in self._slots) < FEWEST_IMAGES:
                return {}
            expected = _expected(self._reference)
            return {
                name: drift.stability_index(counts, np.sum([slot[name] for _, slot, _ in self._slots], axis=0))
                for name, counts in expected.items()
                if all(name in slot for _, slot, _ in self._slots)
            }

    def window_images(self) -> int:
        """How many images are in the window."""
        with self._lock:
            self._count()
            self._forget()
            return sum(images for _, _, images in self._slots)

    def _count(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        answers = drift.answer_figures(np.stack([each.outputs[PROBABILITIES] for each in waiting]))
        values: dict[str, NDArray[np.float64]] = {
            "top_probability": answers.top_probability,
            "margin": answers.margin,
            "entropy": answers.entropy,
        }
        for name in ImageFigures._fields:
            values[name] = np.array([getattr(each.figures, name) for each in waiting])
        values["size"] = np.array([each.size for each in waiting], np.float64)
        places = np.bincount(self._place[answers.first], minlength=len(self._names))
        self._classes += places
        self._images += len(waiting)
        for name, (_, _, buckets) in _HISTOGRAMS.items():
            self._buckets[name] += np.bincount(np.searchsorted(buckets, values[name]), minlength=len(buckets) + 1)
            self._sums[name] += float(values[name].sum())
        if self._novelty is not None:
            needed = self._novelty.needs
            scores = self._novelty.scores({name: np.stack([each.outputs[name] for each in waiting]) for name in needed})
            self._unknown += int((scores > self._novelty.threshold).sum())
            values["novelty"] = scores
        if self._reference is not None:
            found = {name: bins.count(values[name]) for name, bins in self._reference.bins.items() if name in values}
            self._into_slot({**found, CLASS: places}, len(waiting))

    def _into_slot(self, found: dict[str, NDArray[np.int64]], images: int) -> None:
        now = int(self._clock() / self._slot_seconds)
        if self._slots and self._slots[-1][0] == now:
            _, before, had = self._slots[-1]
            self._slots[-1] = now, {name: counts + before[name] for name, counts in found.items()}, had + images
        else:
            self._forget()
            self._slots.append((now, found, images))

    def _forget(self) -> None:
        oldest = int(self._clock() / self._slot_seconds) - _SLOTS
        while self._slots and self._slots[0][0] <= oldest:
            self._slots.popleft()

    def collect(self, families: _Families) -> None:
        """Put what was seen into the families of metrics."""
        indices, images = self.indices(), self.window_images()
        labels = [self.identity.name, self.identity.version]
        with self._lock:
            for name, count in zip(self._names, self._classes.tolist(), strict=True):
                families.classes.add_metric([*labels, name], count)
            if self._novelty is not None:
                families.known.add_metric([*labels, "unknown"], self._unknown)
                families.known.add_metric([*labels, "known"], self._images - self._unknown)
            for name, (_, _, edges) in _HISTOGRAMS.items():
                counts = np.cumsum(self._buckets[name]).tolist()
                buckets = [*zip(map(str, map(float, edges)), counts[:-1], strict=True), ("+Inf", counts[-1])]
                families.histograms[name].add_metric(labels, buckets, self._sums[name])
        families.window.add_metric(labels, images)
        for name, index in indices.items():
            families.index.add_metric([*labels, name], index)


class _Families:
    def __init__(self) -> None:
        of_model = ["model", "version"]
        self.classes = CounterMetricFamily(
            "glimpse_answers",
            "Images by their most probable class: the most frequent ones of the model's drift reference, and other.",
            labels=[*of_model, "class"],
        )
        self.known = CounterMetricFamily(
            "glimpse_images_novelty",
            "Images by whether they show any of the model's classes: known or unknown.",
            labels=[*of_model, "verdict"],
        )
        self.histograms = {
            name: HistogramMetricFamily(metric, text, labels=of_model)
            for name, (metric, text, _) in _HISTOGRAMS.items()
        }
        self.window = GaugeMetricFamily(
            "glimpse_drift_window_images", "Images that are compared with the reference of drift.", labels=of_model
        )
        self.index = GaugeMetricFamily(
            "glimpse_drift_stability_index",
            "Population stability index of a figure over the last GLIMPSE_DRIFT_WINDOW_SECONDS against the reference: "
            "below 0.1 little has changed, above 0.25 much has.",
            labels=[*of_model, "figure"],
        )

    def __iter__(self) -> Iterator[Metric]:
        yield from (self.classes, self.known, *self.histograms.values(), self.window, self.index)


class Drift(Collector):
    """What is seen of every model of a server; a collector of metrics."""

    def __init__(self, *, window: float = 3600.0, on: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing seen.

        Args:
            window: seconds that are compared with a reference.
            on: whether anything is counted at all.
            clock: in seconds.
        """
        self._window, self._on, self._clock = window, on, clock
        self._models: dict[ModelIdentity, ModelDrift] = {}
        self._full_until = -math.inf  # on the clock: until then there is no place for another model
        self._lock = threading.Lock()

    def of(self, bundle: Bundle) -> ModelDrift | None:
        """What is seen of a model; None: nothing is to be counted, or there is no place for another model."""
        # The figures of answers are those of classes that exclude each other.
        if not self._on or not bundle.head.exclusive:
            return None
        identity = ModelIdentity(bundle.name, bundle.version, bundle.weights_digest)
        found = self._models.get(identity)
        if found is not None and found.is_of(bundle):
            return found
        with self._lock:
            kept = [
                each
                for each in self._models.values()
                if (each.identity.name, each.identity.version) != (identity.name, identity.version)
            ]
            if len(kept) >= _MOST_MODELS:
                if self._clock() < self._full_until:
                    return None
                gone = next((each for each in kept if each.idle(self._window)), None)
                if gone is None:
                    self._full_until = self._clock() + _LOOK_AGAIN
                    return None
                kept.remove(gone)
            found = ModelDrift(bundle, window=self._window, clock=self._clock)
            # Replaced as a whole: a scrape looks at it from a thread of its own.
            self._models = {each.identity: each for each in (*kept, found)}
        return found

    def collect(self) -> Iterator[Metric]:
        """The metrics of all models, without samples where nothing is counted."""
        families = _Families()
        for each in self._models.values():
            each.collect(families)
        yield from families


def _expected(reference: Reference) -> dict[str, NDArray[np.int64]]:
    counts = {name: np.array(bins.counts) for name, bins in reference.bins.items()}
    return {**counts, CLASS: reference.class_counts()}


def _names(bundle: Bundle, indices: Sequence[int]) -> list[str]:
    """What the classes are called in metrics: their labels, with the index where a label names several."""
    labels = [bundle.labels[index].label for index in indices]
    return [
        f"{label} ({index})" if labels.count(label) > 1 or label == _OTHER else label
        for label, index in zip(labels, indices, strict=True)
    ]
