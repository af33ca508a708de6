"""From settings to a model that is ready: bundle, memory budget, weights, runtime, warm-up, golden check, batcher."""

from __future__ import annotations

import contextlib
import time

import structlog

from glimpse.models import sources
from glimpse.server import cores
from glimpse.server.batching.batcher import Batcher
from glimpse.server.metrics import Metrics
from glimpse.server.registry import LoadedModel
from glimpse.server.runtime import (
    Runtime,
    converted_cache,
    errors_as_unsupported,
    golden_check,
    memory_budget,
    selection,
    warm,
)
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.network import Network
from glimpse.server.runtimes import REFERENCE, RUNTIMES, RuntimeName
from glimpse.server.settings import Settings
from glimpse.server.startup import GoldenError, MemoryShortError

_LARGEST = 32  # images: what most runtimes take for a batch when left to themselves
_log = structlog.get_logger(__name__)


def load_model(settings: Settings, metrics: Metrics) -> LoadedModel:
    """Load and warm the model of `settings`; takes seconds where a framework has to be imported for it.

    Raises:
        ValueError, OSError: the bundle, its weights or the runtime cannot be used; the message says why.
        GoldenError: expected; the model does not give the answers here that it should.
        MemoryShortError: expected; there is not enough memory for it.
    """
    begun = time.monotonic()
    # Before Keras is imported, which reads once on which backend it is to run.
    runtimes = selection.choose(settings.runtime)
    bundle = sources.resolve(_source(settings))
    golden = golden_check.load(bundle, settings.golden)
    rows = (cores.available() + 1) * (settings.max_batch_size or _LARGEST)
    row = RUNTIMES[runtimes[0]]
    memory_budget.check(
        bundle,
        row,
        converted=row.reads_converted and converted_cache.is_cached(bundle),
        rows=rows,
        images=settings.max_images_in_flight,
        budget=memory_budget.available(),
    )
    try:
        with contextlib.closing(Network(bundle.verified(), conversion_seconds=settings.conversion_seconds)) as network:
            runtime, agreement, batch_sizes = selection.first(
                runtimes, lambda name: _warmed(name, network, golden, settings)
            )
            summary = network.summary
    except MemoryError as error:
        raise MemoryShortError(
            f"There is not enough memory to load the model {bundle.name} with {runtimes[0]}. {error} Allow more "
            "memory, serve a smaller model, or lower GLIMPSE_MAX_BATCH_SIZE."
        ) from error
    for note in summary.notes:
        _log.info("weights file", model=bundle.name, detail=note)
    batcher = Batcher(
        runtime,
        alone=runtime.alone,
        streams=runtime.streams,
        input_shape=bundle.input_shape,
        batch_sizes=batch_sizes,
        outputs=runtime.outputs,
        capacity=settings.max_images_in_flight,
        observer=metrics.of(bundle.name, bundle.version),
        out_of_memory=runtime.out_of_memory,
        stuck_seconds=settings.stuck_seconds,
    )
    batcher.start()
    _log.info(
        "model loaded",
        model=bundle.name,
        version=bundle.version,
        weights_digest=bundle.weights_digest,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        **({"agreement": round(agreement.share, 4)} if agreement is not None else {}),
        output=summary.output,
        seconds=round(time.monotonic() - begun, 2),
    )
    return LoadedModel(
        bundle=bundle,
        network=summary,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        agreement=agreement,
        batch_sizes=batch_sizes,
        batcher=batcher,
        outputs=runtime.outputs,
    )


def _warmed(
    name: RuntimeName, network: Network, golden: golden_check.GoldenCheck, settings: Settings
) -> tuple[Runtime, Agreement | None, tuple[int, ...]]:
    """A runtime that has passed the golden check, how its precision compares, and the batch sizes that it is warm for.

    Raises:
        GoldenError: expected; it has not passed, and in float32 it would not either.
        UnsupportedNetworkError: the runtime cannot compute the network; another one may.
        MemoryError: a batch did not fit.
    """
    largest = settings.max_batch_size
    runtime, agreement = selection.build((name,), network, precision=settings.precision, largest=largest)
    multiply_adds = network.summary.multiply_adds
    try:
        return runtime, agreement, _warm(runtime, golden, largest, multiply_adds)
    except GoldenError as error:
        if settings.precision != "auto" or runtime.precision == REFERENCE:
            raise
        _log.warning("precision falls back", precision=REFERENCE, instead_of=runtime.precision, detail=str(error))
    del runtime  # two at a time would take twice the memory
    runtime, _ = selection.build((name,), network, precision=REFERENCE)
    return runtime, agreement, _warm(runtime, golden, largest, multiply_adds)


def _warm(runtime: Runtime, golden: golden_check.GoldenCheck, largest: int, multiply_adds: int) -> tuple[int, ...]:
    sizes = runtime.batch_sizes(largest, multiply_adds)
    with errors_as_unsupported(f"{runtime.name} cannot compute this network"):
        try:
            warm(runtime, golden, sizes)
        except Exception as error:
            if runtime.out_of_memory(error):
                raise MemoryError(f"A batch of up to {sizes[-1]} images did not fit.") from error
            raise
    return sizes


def _source(settings: Settings) -> sources.ModelSource:
    """What to serve, as the settings say it."""
    return sources.ModelSource(
        weights=settings.weights,
        architecture=settings.model,
        variant=settings.variant or None,
        options=settings.options,
        labels=settings.labels,
        recipe=settings.recipe,
    )
