"""Which of an engine's models hang: their calls are refused, and an engine with one that is needed is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from glimpse.server.repository.served_workers import ServedModel

_log = structlog.get_logger(__name__)


class ServedWatch:
    """Looks at the models of an engine again and again. Lives on its event loop."""

    def __init__(
        self,
        models: Callable[[], Iterable[ServedModel]],
        needs: Callable[[str], bool],
        *,
        seconds: float,
        changed: Callable[[], object],
        trouble: Callable[[str | None], object],
    ) -> None:
        """None hangs.

        Args:
            models: all that there are.
            needs: whether the server is not ready without the model of this name.
            seconds: between two looks.
            changed: called when another model hangs, or one does no more.
            trouble: called with what keeps the device from answering for a model that the server needs, for people;
                None: nothing does any more.
        """
        self._models, self._needs, self._seconds = models, needs, seconds
        self._changed, self._trouble = changed, trouble
        self._hung: set[int] = set()  # serial numbers of those that hang

    def hangs(self, served: ServedModel) -> bool:
        """Whether a batch of this model hangs."""
        return served.serial in self._hung

    async def run(self) -> None:
        """Look now and then, until it is cancelled."""
        before: str | None = None
        while True:
            await asyncio.sleep(self._seconds)
            found: str | None = None
            hung = set[int]()
            for served in list(self._models()):
                trouble = served.model.batcher.trouble()
                served.host.stuck(stuck=trouble is not None)
                if trouble is not None:
                    hung.add(served.serial)
                    if self._needs(served.model.identity.name):
                        found = found or trouble
                self._log(served, trouble)
            if hung != self._hung:
                self._hung = hung
                self._changed()
            if (found is None) != (before is None):
                self._trouble(found)
            before = found

    def _log(self, served: ServedModel, trouble: str | None) -> None:
        """Log that a model has begun or ceased to hang that the server can do without."""
        model = served.model.identity
        if (trouble is not None) == self.hangs(served) or self._needs(model.name):
            return
        if trouble is None:
            _log.warning("model no longer stuck", model=model.name, version=model.version)
        else:
            detail = f"{trouble} Until it recovers, calls of this model are refused; others are answered."
            _log.error("model stuck", model=model.name, version=model.version, detail=detail)
