"""Loading: from a model's source to a model that answers. Find it, import it, serve it, put a queue in front of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, cast

import structlog

from glimpse.models import sources
from glimpse.models.bundle import Bundle
from glimpse.models.errors import BundleError
from glimpse.models.messages import short
from glimpse.models.outputs import CLASS_MAPS, HIDDEN
from glimpse.models.sources import ModelSource
from glimpse.models.spec import NetworkSummary
from glimpse.server import cores, gpus
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.device import SharedDevice
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.batching.observer import Observer
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.batching.streams import Streams
from glimpse.server.class_choice import Classes
from glimpse.server.domain import ClassChoice
from glimpse.server.errors import InvalidRequestError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.progress import Progress, logged, untold
from glimpse.server.runtime import (
    batch_rates,
    converted_cache,
    golden_check,
    memory_budget,
    selection,
    simulated,
)
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.golden_check import GoldenCheck
from glimpse.server.runtime.gpus import is_for_cpus
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.int8_trial import Given
from glimpse.server.runtime.serving import ServedModel, serve
from glimpse.server.runtimes import GPU_STREAMS, QUANTISED, RUNTIMES, Precision, RuntimeName
from glimpse.server.settings import Settings
from glimpse.server.settings.kinds import PrecisionChoice
from glimpse.server.startup import MemoryShortError, ModelLoadError, StartupError

T = TypeVar("T")

_LARGEST = 32  # images: what most runtimes take for a batch on a CPU when left to themselves
_log = structlog.get_logger(__name__)


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


def load_configured(
    settings: Settings, observe: Callable[[str, str], Observer], *, progress: Progress = untold
) -> LoadedModel:
    """Load the model of the settings, see `load_model`.

    Raises:
        StartupError: expected; the message says what to do.
    """
    return explained(lambda: load_model(model_source(settings), LoadOptions.of(settings), observe, progress=progress))


def explained(load: Callable[[], T]) -> T:
    """What `load` returns.

    Raises:
        StartupError: expected; in place of whatever it raises. The message says what to do.
    """
    try:
        return load()
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"Cannot load the model: {error}") from error
    except StartupError:
        raise
    except Exception as error:
        _log.debug("model not loaded", exc_info=True)
        raise ModelLoadError(f"Cannot load the model: {short(error)}") from error


def load_model(
    source: ModelSource,
    options: LoadOptions,
    observe: Callable[[str, str], Observer],
    *,
    progress: Progress = untold,
    named: tuple[str, str] | None = None,
) -> LoadedModel:
    """Load the model of a source until it answers; takes seconds where a framework has to be imported for it.

    Whatever it takes belongs to the model that is returned, and is free once that is closed and dropped. More models
    may be loaded in the same process, while those before them serve.

    Args:
        source: the model.
        options: how it is loaded.
        observe: gives what is told of its batches, for its name and version.
        progress: is told what is being done.
        named: its name and version in a repository; None: those of its bundle.

    Raises:
        ValueError, OSError: the bundle, its weights or the runtime cannot be used; the message says why.
        GoldenError: expected; the model does not give the answers here that it should.
        MemoryShortError: expected; there is not enough memory for it.
        StoppedError: expected; the start was told to end.
    """
    begun, progress = time.monotonic(), logged(progress)
    progress("find the weights", limited=False)  # a download has limits of its own
    bundle = sources.resolve(source)
    options = replace(options, runtimes=selection.able(options.runtimes, bundle, auto=options.auto))
    if RUNTIMES[options.runtimes[0]].simulated:
        bundle = _named(simulated.renamed(bundle), named)
        golden = golden_check.of_simulated(bundle, options.golden)
    else:
        bundle = _named(bundle, named)
        golden = golden_check.load(bundle, options.golden)
    _check_memory(bundle, options)
    _check_classes(bundle, options)
    try:
        bundle = bundle.verified()
        summary, served = _imported_and_served(bundle, golden, options, progress)
    except MemoryError as error:
        raise MemoryShortError(
            f"There is not enough memory to load the model {bundle.name} with {options.runtimes[0]}. {error} Allow "
            "more memory, serve a smaller model, or lower GLIMPSE_MAX_BATCH_SIZE."
        ) from error
    for note in summary.notes:
        _log.info("weights file", model=bundle.name, detail=note)
    runtime, agreement, batch_sizes = served
    _check_novelty(bundle, summary)
    batcher: ModelQueue = _queue(bundle, served, options, observe)
    if options.sleeps:
        # The same runtime in the same precision, whose answers have been compared with the recorded ones.
        again = replace(
            options,
            runtimes=tuple(name for name in options.runtimes if name == runtime.name),
            precision=cast("Precision", runtime.precision),
            max_batch_size=batch_sizes[-1],
            streams=runtime.streams,
            judged=agreement if runtime.precision == QUANTISED else None,
        )
        batcher = SleepQueue(batcher, partial(_load_again, bundle, golden, again, observe))
    _log.info(
        "model loaded",
        model=bundle.name,
        version=bundle.version,
        weights_digest=bundle.weights_digest,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        **({"agreement": round(agreement.share, 4)} if agreement is not None else {}),
        network_output=summary.output,
        seconds=round(time.monotonic() - begun, 2),
    )
    return LoadedModel(
        bundle=bundle,
        network=summary,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        geometries=options.geometries,
        choice=options.own_classes,
        agreement=agreement,
        batch_sizes=batch_sizes,
        batcher=batcher,
        outputs=runtime.outputs - HIDDEN,
    )


def _check_novelty(bundle: Bundle, summary: NetworkSummary) -> None:
    """Look whether the network gives what its score of novelty was fitted on.

    Raises:
        BundleError: its embedding has another size, or it has none.
    """
    fitted = None if bundle.novelty is None else bundle.novelty.logistic
    if fitted is not None and fitted.features != summary.embedding:
        raise BundleError(
            f"The score of novelty of {bundle.name} was fitted on an embedding of {fitted.features:,} numbers, and the "
            f"network's has {summary.embedding:,}. Calibrate it again with python -m glimpse.models calibrate."
        )


def _queue(
    bundle: Bundle, served: ServedModel, options: LoadOptions, observe: Callable[[str, str], Observer]
) -> Batcher:
    """The queue in front of a runtime, at work."""
    runtime = served.runtime
    batcher = Batcher(
        runtime,
        alone=runtime.alone,
        streams=Streams(runtime.streams, gpu=runtime.device.startswith("gpu")),
        input_shape=bundle.recipe.pixels_shape,
        batch_sizes=served.batch_sizes,
        outputs=runtime.outputs,
        capacity=options.max_images_in_flight,
        observer=observe(bundle.name, bundle.version),
        out_of_memory=runtime.out_of_memory,
        stuck_seconds=options.stuck_seconds,
        share=None if options.device is None else options.device.share(options.weight, runtime.streams),
        idle_seconds=options.idle_seconds,
        prepare_maps=runtime.prepare_maps if CLASS_MAPS in runtime.outputs else None,
    )
    batcher.start()
    return batcher


def _load_again(
    bundle: Bundle,
    golden: GoldenCheck,
    options: LoadOptions,
    observe: Callable[[str, str], Observer],
    progress: Progress,
) -> ModelQueue:
    """The queue of a model that sleeps, with all that is behind it. Its weights are the same, by their digest.

    Raises:
        Exception: it cannot be loaded any more, see `explained`.
    """
    unchecked = replace(golden, disabled=True)
    _, served = _imported_and_served(bundle, unchecked, options, progress)
    return _queue(bundle, served, options, observe)


def _named(bundle: Bundle, named: tuple[str, str] | None) -> Bundle:
    return bundle if named is None else replace(bundle, name=named[0], version=named[1])


def _imported_and_served(
    bundle: Bundle, golden: GoldenCheck, options: LoadOptions, progress: Progress
) -> tuple[NetworkSummary, ServedModel]:
    """The first of the runtimes that the model can be imported for and that serves it, and what its network is."""

    def attempt(name: RuntimeName) -> tuple[NetworkSummary, ServedModel]:
        row = RUNTIMES[name]
        progress(f"read the network for {name}", limited=not row.reads_converted)  # a conversion has a limit of its own
        model = import_model(
            bundle,
            row,
            seconds=options.conversion_seconds,
            simulated_seconds=options.simulated_seconds,
        )
        with contextlib.closing(model):
            served = serve(
                model,
                golden,
                precision=options.precision,
                largest=options.max_batch_size,
                streams=options.streams,
                given=Given(options.calibration, options.conversion_seconds, options.judged),
                progress=progress,
            )
            return model.summary, served

    return selection.first(options.runtimes, attempt)


def default_choice(settings: Settings) -> ClassChoice | None:
    """The classes that answer requests which do not choose; None: all."""
    allow, deny = settings.allow_classes, settings.deny_classes
    return ClassChoice(allow, deny) if allow or deny else None


# What says which classes answer requests that do not choose.
_NAMES = "GLIMPSE_ALLOW_CLASSES and GLIMPSE_DENY_CLASSES"
_OWN_NAMES = "allow_classes and deny_classes of the model"


def _check_classes(bundle: Bundle, options: LoadOptions) -> None:
    """Refuse a model that lacks the classes of the settings, before its first request does.

    Raises:
        ValueError: it lacks one; the message names it.
    """
    if options.classes is None:
        return
    try:
        Classes(bundle).chosen(options.classes)
    except InvalidRequestError as error:
        raise ValueError(f"{error.message} Check {_NAMES if options.own_classes is None else _OWN_NAMES}.") from None


def _check_memory(bundle: Bundle, options: LoadOptions) -> None:
    """Refuse a model that cannot fit, before anything of it is loaded."""
    row = RUNTIMES[options.runtimes[0]]
    rows = Streams(cores.available()).workers * (options.max_batch_size or _LARGEST)
    # Whether it computes on a GPU is known once a framework is loaded, and how large its batches are, once measured.
    if row.gpu_probe is not None:
        measured = batch_rates.LARGEST if gpus.may_be_there() and not is_for_cpus(row) else _LARGEST
        rows = max(rows, Streams(GPU_STREAMS, gpu=True).workers * (options.max_batch_size or measured))
    takes = memory_budget.expected(
        bundle,
        row,
        converted=row.reads_converted and converted_cache.is_cached(bundle),
        rows=rows,
        images=options.max_images_in_flight,
    )
    if takes is not None:
        options.room(takes)
    memory_budget.check(bundle.name, row, takes, memory_budget.available())
