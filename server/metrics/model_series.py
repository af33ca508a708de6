"""The metrics of which models there are: in which state, loaded in which precision; and when the series of one end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from glimpse.server.domain import ModelIdentity

# After which the series of a version that is gone end: some scrapes have seen its last counts by then.
_GRACE_SECONDS = 300.0


class _States(Collector):
    """Every version of every model of a repository with its state."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._states: Callable[[], Iterable[tuple[str, str, str]]] = tuple
        registry.register(self)

    def set_function(self, states: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "glimpse_model_state",
            "Versions of models in the repository with their state, as labels; the value is always 1.",
            labels=["model", "version", "state"],
        )
        for labels in self._states():
            family.add_metric(labels, 1)
        yield family


class ModelSeries:
    """Told of every model that is loaded, closed or compared. For the event loop."""

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float], forget: Callable[[tuple[str, str]], object]
    ) -> None:
        """Make the instruments.

        Args:
            registry: gets them.
            clock: seconds, monotonic.
            forget: ends what else has series of a version, given its name and version.
        """
        self._clock, self._forget = clock, forget
        self._gone: dict[tuple[str, str], float] = {}  # versions that answer no more, and since when
        self._loaded = Counter[tuple[str, ...]]()  # labels of the models that are loaded
        self._precisions: dict[tuple[str, str], set[str]] = {}  # in which versions were compared
        self._model = Gauge(
            "glimpse_model_info",
            "Loaded models, as labels; the value is always 1.",
            ["model", "version", "weights_digest", "runtime", "precision"],
            registry=registry,
        )
        self._states = _States(registry)
        self._agreement = Gauge(
            "glimpse_precision_agreement",
            "Share of pictures for which the reduced precision names the same first class as float32, from 0 to 1, "
            "measured before serving.",
            ["model", "version", "precision"],
            registry=registry,
        )
        self._speed = Gauge(
            "glimpse_precision_speed",
            "How many times as fast the network is computed in int8 as in the next best precision, measured before "
            "serving.",
            ["model", "version", "precision"],
            registry=registry,
        )

    def follow(self, states: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        """Read name, version and state of each model of a repository at each scrape."""
        self._states.set_function(states)

    def loaded(self, identity: ModelIdentity, runtime: str, precision: str) -> None:
        """A model answers from now on."""
        labels = identity.name, identity.version, identity.weights_digest, runtime, precision
        self._loaded[labels] += 1
        self._model.labels(*labels).set(1)
        self._gone.pop((identity.name, identity.version), None)
        self._forget_gone()

    def closed(self, identity: ModelIdentity, runtime: str, precision: str) -> None:
        """A model answers no more; where none of its version does, its series end minutes later."""
        labels = identity.name, identity.version, identity.weights_digest, runtime, precision
        self._loaded[labels] -= 1
        if self._loaded[labels] <= 0:  # else its files were replaced by equal ones, and it was loaded again
            del self._loaded[labels]
            self._model.remove(*labels)
        if not any(each[:2] == labels[:2] for each in self._loaded):
            self._gone[labels[:2]] = self._clock()
        self._forget_gone()

    def compared(self, identity: ModelIdentity, precision: str, agreement: float, speed: float = 0.0) -> None:
        """So large a share of pictures has the first class of float32 in that reduced precision, served or not.

        Args:
            identity: of the model.
            precision: the reduced one.
            agreement: the share, from 0 to 1.
            speed: times that of the next best precision; 0: it was not measured.
        """
        self._agreement.labels(identity.name, identity.version, precision).set(agreement)
        if speed:
            self._speed.labels(identity.name, identity.version, precision).set(speed)
        self._precisions.setdefault((identity.name, identity.version), set()).add(precision)

    def loading(self, model: str, version: str) -> None:
        """A version is being loaded; one that was loaded before is not to lose its series meanwhile."""
        if (key := (model, version)) in self._gone:
            self._gone[key] = self._clock()

    def _forget_gone(self) -> None:
        """Drop the series of versions that are gone for so long that their last counts have been scraped.

        Done where a model begins or ceases to answer: between two of those there are no more of them.
        """
        for key in [key for key, since in self._gone.items() if self._clock() - since > _GRACE_SECONDS]:
            del self._gone[key]
            self._forget(key)
            for precision in self._precisions.pop(key, ()):
                self._agreement.remove(*key, precision)
                with contextlib.suppress(KeyError):  # it was not measured
                    self._speed.remove(*key, precision)
