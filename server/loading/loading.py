"""Loading: from a model's source to a model that answers. Find it, import it, serve it, put a queue in front of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

import structlog

from glimpse.models import sources
from glimpse.models.bundle import Bundle
from glimpse.models.messages import short
from glimpse.models.outputs import CLASS_MAPS, HIDDEN
from glimpse.models.sources import ModelSource
from glimpse.models.spec import NetworkSummary
from glimpse.server.batching.batcher import Batcher
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.batching.observer import Observer
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.batching.streams import Streams
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading import checks
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.machine.awake import AwakeClock
from glimpse.server.processes.startup import MemoryShortError, ModelLoadError, StartupError
from glimpse.server.progress import Progress, logged, untold
from glimpse.server.runtime import golden_check, selection, simulated
from glimpse.server.runtime.golden_check import GoldenCheck
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.int8_trial import Given
from glimpse.server.runtime.serving import ServedModel, serve
from glimpse.server.runtimes import QUANTISED, RUNTIMES, Precision, RuntimeName
from glimpse.server.settings import Settings

T = TypeVar("T")

_log = structlog.get_logger(__name__)


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
    checks.check_memory(bundle, options)
    checks.check_classes(bundle, options)
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
    checks.check_novelty(bundle, summary)
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
        awake=AwakeClock(limit=options.stuck_seconds) if options.device is None else options.device.clock,
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
