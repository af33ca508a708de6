"""`python -m glimpse.server prepare`: converts what a start would convert, so that the next start does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import structlog

from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_configured
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes import stopping
from glimpse.server.processes.interruptible import run_until_stopped
from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.processes.stop_signals import StopEvent, stop_on_signals
from glimpse.server.registry import ModelRegistry
from glimpse.server.repository.repository import Repository, nothing
from glimpse.server.repository.rollout import Rollouts
from glimpse.server.runtime import converted_cache
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)


async def prepare_start(settings: Settings) -> int:
    """Load the model as a start with these settings does, and keep what a later one can take from there.

    Returns:
        The exit code: 0, or that for the signal by which it was told to stop.

    Raises:
        StartupError: expected; such a start would fail, or there is no place to keep anything.
    """
    stop = stop_on_signals()
    if settings.models is not None:
        return await _prepare_models(settings, settings.models, stop)
    model = await run_until_stopped(stop, partial(load_configured, settings, Metrics().of))
    if model is None:
        return stopping.exit_code(stop.number, prepares=True)
    model.close()
    if not _is_kept(model):
        raise ModelLoadError(
            "The model loads, but the converted model could not be stored, so that each start would convert it again. "
            "Set GLIMPSE_CACHE to a writable folder with enough space."
        )
    _log.info("prepared", model=model.identity.name)
    return 0


async def _prepare_models(settings: Settings, root: Path, stop: StopEvent) -> int:
    registry, metrics = ModelRegistry(), Metrics()
    repository = Repository(
        root,
        settings,
        registry,
        metrics.of,
        changed=nothing,
        loaded=lambda _: None,
        closed=nothing,
        rollouts=Rollouts(metrics.rollouts),
    )
    if not await repository.start(stop):
        return stopping.exit_code(stop.number, prepares=True)
    if failed := [f"{each.name} {each.version}: {each.reason}" for each in registry.models() if each.reason]:
        raise ModelLoadError(f"Not all models of {root} can be loaded. {' '.join(failed)}")
    for model in registry:
        model.close()
    if lacking := [f"{each.identity.name} {each.identity.version}" for each in registry if not _is_kept(each)]:
        raise ModelLoadError(
            f"The models load, but the converted models of {', '.join(lacking)} could not be stored, so that each "
            "start would convert them again. Set GLIMPSE_CACHE to a writable folder with enough space."
        )
    for model in registry:
        _log.info("prepared", model=model.identity.name, version=model.identity.version)
    return 0


def _is_kept(model: LoadedModel) -> bool:
    """Whether a later start finds what this one has converted, where its runtime needs that."""
    return not RUNTIMES[model.runtime].reads_converted or converted_cache.is_cached(model.bundle)
