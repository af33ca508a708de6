"""Other processes that answer with the models of a repository, as the repository tells them."""

from __future__ import annotations

from glimpse.server.progress import Progress
from glimpse.server.registry import LoadedModel


class Audience:
    """Nobody: the process that loads the models answers all requests itself."""

    lets_sleep = True  # models may give their memory back while nobody asks for them

    def examine(self, model: LoadedModel, progress: Progress) -> None:
        """In the thread that has loaded a model, before anybody else has it: find out what others need to know of it.

        Raises:
            Exception: it does not answer; then it has been closed.
        """

    async def offer(self, model: LoadedModel) -> None:
        """Wait until everybody could answer with a model that is about to take the place of another."""

    async def told(self) -> None:
        """Wait until everybody answers as the registry does now."""
