"""The watchdog: looks now and then whether a model or the decoders hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from glimpse.server.decoding.pool import DecodePool
from glimpse.server.decoding.where import Decoding
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.registry import ModelRegistry
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)


class Watchdog:
    """What it has found is in `trouble`. Lives on the event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        decoders: DecodePool,
        decoding: Decoding,
        changed: Callable[[], Awaitable[None]],
        *,
        needed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Watch the models and the decoders.

        Args:
            settings: of the server.
            registry: of the models.
            decoders: the threads that decode.
            decoding: what they do.
            changed: awaited when something hangs, and when it no longer does.
            needed: whether the server can do nothing useful while the model of that name hangs.
        """
        self.trouble: str | None = None  # what hangs that the server needs
        self.hung: tuple[LoadedModel, ...] = ()  # all models that do
        self._needed = needed
        self._settings = settings
        self._registry, self._decoders, self._decoding = registry, decoders, decoding
        self._changed = changed
        self._others_changed = False  # a model that is not needed has begun or ceased to hang
        self._overdue = 0  # decoder threads that have been at one image for too long

    def hangs(self, model: LoadedModel | None) -> bool:
        """Whether a model is one of those that hang."""
        return any(model is each for each in self.hung)

    async def run(self) -> None:
        """Look, again and again, for as long as the server lives."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.stuck_seconds / 4))
            try:
                trouble = self._find()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is to be seen
                _log.exception("a defect of the service")
                # Nobody would notice a model that hangs.
                trouble = f"The watchdog failed with {type(error).__name__}."
            before, self.trouble = self.trouble, trouble
            if (trouble is None) != (before is None):
                if trouble is not None:
                    _log.error("stuck", detail=trouble)
                else:
                    _log.warning("no longer stuck")
            elif not self._others_changed:
                continue
            await self._changed()

    def _find(self) -> str | None:
        """What hangs; None where nothing does. Logs decoder threads that are late."""
        seconds, threads = self._decoding.seconds, self._settings.decoders
        before, self._overdue = self._overdue, self._decoders.overdue(seconds)
        if self._overdue > before:
            # The prediction of the file's cost was wrong, or the machine stood still.
            _log.warning("decoder threads overdue", threads=self._overdue, of=threads, longer_than=seconds)
        # All are asked: that is what ends the calls that wait for a model which hangs.
        troubles = [(model, each) for model in self._registry if (each := model.batcher.trouble())]
        self._tell_others([(model, each) for model, each in troubles if not self._needed(model.identity.name)])
        self.hung = tuple(model for model, _ in troubles)
        if needed := [each for model, each in troubles if self._needed(model.identity.name)]:
            return f"{needed[0]} Until it recovers, calls are refused, and the health checks fail."
        if self._overdue >= threads:
            return (
                f"Each of the {threads} decoder threads has worked on one image for more than {seconds:g} s. Until one "
                "of them is done, other images wait for a decoder, and the health checks fail."
            )
        return None

    def _tell_others(self, troubles: list[tuple[LoadedModel, str]]) -> None:
        """Note which models hang that the server can do without; only they are told as hanging."""
        before = [model for model in self.hung if not self._needed(model.identity.name)]
        begun = [(model, why) for model, why in troubles if not any(model is each for each in before)]
        ended = [model for model in before if not any(model is each for each, _ in troubles)]
        for model, why in begun:
            detail = f"{why} Until it recovers, calls of this model are refused; others are answered."
            _log.error("model stuck", model=model.identity.name, version=model.identity.version, detail=detail)
        for model in ended:
            _log.warning("model no longer stuck", model=model.identity.name, version=model.identity.version)
        self._others_changed = bool(begun or ended)
