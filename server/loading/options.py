"""How models are loaded, and which model a server of one is to load: what its settings say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glimpse.models.sources import ModelSource
from glimpse.server.batching.device import SharedDevice
from glimpse.server.domain import ClassChoice
from glimpse.server.machine import cores
from glimpse.server.runtime import selection
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtimes import RuntimeName
from glimpse.server.settings import Settings
from glimpse.server.settings.kinds import PrecisionChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How models are loaded, whichever they are; the fields are those of the settings."""

    runtimes: tuple[RuntimeName, ...]  # best first, from `selection.choose`, which tells Keras of their backend
    precision: PrecisionChoice
    golden: Literal["require", "auto", "off"]
    max_batch_size: int  # images; 0: what suits the runtime and the network
    max_images_in_flight: int
    conversion_seconds: float
    simulated_seconds: Mapping[int, float]  # by batch size; empty: those of an H100
    stuck_seconds: float
    auto: bool = False  # nobody has named a runtime
    calibration: Path | None = None  # images to quantise with, for models that bring none
    judged: Agreement | None = None  # of a model whose int8 network has earned its place, and is loaded again
    classes: ClassChoice | None = None  # that answer requests which do not choose; None: all
    own_classes: ClassChoice | None = None  # these, if they are the model's own; None: they are those of the server
    geometries: frozenset[str] | None = None  # that a request may choose; None: those of the server
    streams: int = 0  # of the runtime, where it can be told; 0: what suits it
    weight: float = 1.0  # that the model's time on the device is in proportion to, while others wait
    device: SharedDevice | None = None  # on which other models compute, too; None: it is the model's alone
    # Told of the bytes that a model takes at the most, before anything of it is loaded; may raise `MemoryShortError`.
    room: Callable[[int], object] = lambda _: None
    sleeps: bool = False  # the model's queue is a `SleepQueue`
    idle_seconds: float | None = None  # without an image, after which the threads of the model end; None: never

    @classmethod
    def of(cls, settings: Settings) -> LoadOptions:
        """Those of a server. To be asked for before Keras is imported.

        Raises:
            ValueError: the runtime is not installed.
        """
        return cls(
            runtimes=selection.choose(settings.runtime),
            precision=settings.precision,
            golden=settings.golden,
            max_batch_size=settings.max_batch_size,
            max_images_in_flight=settings.max_images_in_flight,
            conversion_seconds=settings.conversion_seconds,
            simulated_seconds=settings.simulated_seconds,
            stuck_seconds=settings.stuck_seconds,
            auto=settings.runtime == "auto",
            calibration=settings.calibration,
            streams=min(settings.compute_streams, cores.available()),
            classes=default_choice(settings),
        )


def model_source(settings: Settings) -> ModelSource:
    """Which model to load, as the settings say it."""
    return ModelSource(
        weights=settings.weights,
        architecture=settings.model,
        variant=settings.variant or None,
        options=settings.options,
        labels=settings.labels,
        recipe=settings.recipe,
    )


def default_choice(settings: Settings) -> ClassChoice | None:
    """The classes that answer requests which do not choose; None: all."""
    allow, deny = settings.allow_classes, settings.deny_classes
    return ClassChoice(allow, deny) if allow or deny else None
