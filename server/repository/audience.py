"""Other processes that answer with the models of a repository, as the repository tells them."""

from __future__ import annotations

import math

from glimpse.server.loaded_model import LoadedModel
from glimpse.server.progress import Progress


class Audience:
    """Nobody: the process that loads the models answers all requests itself."""

    def examine(self, model: LoadedModel, progress: Progress) -> None:
        """In the thread that has loaded a model, before anybody else has it: find out what others need to know of it.

        Raises:
            Exception: it does not answer; then it has been closed.
        """

    async def offer(self, model: LoadedModel) -> None:
        """Wait until everybody could answer with a model that is about to take the place of another."""

    async def told(self) -> None:
        """Wait until everybody answers as the registry does now."""

    def idle_seconds(self, model: LoadedModel) -> float:
        """For how long nobody has used a model; 0: somebody does; infinity: nobody does, whenever that was before."""
        return 0.0 if model.uses else math.inf

    async def rest(self, model: LoadedModel) -> bool:  # noqa: ARG002 - nobody else uses it
        """Have everybody do without a model that is about to be put to sleep.

        Returns:
            Whether they all do; if not, `awake` is to be called for those who do.
        """
        return True

    def awake(self, model: LoadedModel) -> None:
        """Tell everybody that a model answers which they do without."""
