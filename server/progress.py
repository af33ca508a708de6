"""What is being done to load a model, told as it begins, so that whoever watches notices where it hangs."""

from __future__ import annotations

from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)


class Progress(Protocol):
    """Called at the beginning of each step of loading."""

    def __call__(self, step: str, *, limited: bool = True, warms: bool = False) -> object:
        """A step begins, and the one before is done.

        Args:
            step: what it is, for people, such as "compute batches of 8 images".
            limited: whether it may be taken to hang where it takes very long; False: it has a time limit of its own.
            warms: whether the network is built from here on, and computes its first batches.
        """


def untold(step: str, *, limited: bool = True, warms: bool = False) -> None:
    """Tell nobody."""


def logged(progress: Progress) -> Progress:
    """The same, which also writes each step to the log, at the level `debug`."""

    def tell(step: str, *, limited: bool = True, warms: bool = False) -> None:
        _log.debug("loading", step=step)
        progress(step, limited=limited, warms=warms)

    return tell
