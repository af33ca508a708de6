"""From settings to a model that is ready to answer: bundle, weights, runtime, warm-up, batcher."""

from __future__ import annotations

import time

import structlog

from models import sources
from server.batching.batcher import Batcher, Observer
from server.registry import LoadedModel
from server.runtime import choice, warm
from server.settings import Settings

_log = structlog.get_logger(__name__)


def load_model(settings: Settings, observer: Observer) -> LoadedModel:
    """Load and warm the model of `settings`; takes seconds, most of them the framework's import.

    Raises:
        ValueError: the bundle, its weights or the runtime cannot be used; the message says why.
    """
    begun = time.monotonic()
    # Before Keras is imported, which reads once on which backend it is to run.
    runtimes = choice.choose(settings.runtime)
    bundle = sources.resolve(_source(settings))
    # Imported here, so that reading settings and refusing bad ones does not wait for the framework.
    from models.builder import trainable_parameters
    from models.serving import load_bundle, serving_model

    imported = time.monotonic()
    assembly = load_bundle(bundle)
    runtime = choice.build(
        runtimes, serving_model(assembly, bundle.recipe, bundle.temperature), precision=settings.precision
    )
    multiply_adds = sum(stage.multiply_adds for stage in assembly.stages)
    batch_sizes = runtime.batch_sizes(settings.max_batch_size, multiply_adds)
    warm(runtime, input_shape=bundle.input_shape, batch_sizes=batch_sizes)
    batcher = Batcher(
        runtime,
        alone=runtime.alone,
        streams=runtime.streams,
        input_shape=bundle.input_shape,
        batch_sizes=batch_sizes,
        capacity=settings.max_images_in_flight,
        observer=observer,
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
        import_seconds=round(imported - begun, 2),
        load_and_warm_up_seconds=round(time.monotonic() - imported, 2),
    )
    return LoadedModel(
        bundle=bundle,
        paper=assembly.paper,
        stages=assembly.stages,
        parameters=assembly.model.count_params(),
        trainable_parameters=trainable_parameters(assembly.model),
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        batch_sizes=batch_sizes,
        batcher=batcher,
    )


def _source(settings: Settings) -> sources.Source:
    """What to serve, as the settings say it."""
    return sources.Source(
        weights=settings.weights,
        architecture=settings.model,
        variant=settings.variant or None,
        options=settings.options,
        labels=settings.labels,
        recipe=settings.recipe,
    )
