"""A model that is ready to answer, the requests that use it, and what is asked of it where it may sleep."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from glimpse.models.bundle import Bundle
from glimpse.models.outputs import DEFAULT_OUTPUTS, EMBEDDING
from glimpse.models.spec import NetworkSummary
from glimpse.server.answers.class_choice import Classes
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ClassChoice, ModelIdentity
from glimpse.server.runtime.agreement import Agreement


class Uses:
    """Counts the requests that have begun with a model, so that it is closed after the last of them.

    Lives on the event loop; not for other threads.
    """

    __slots__ = ("_changed", "_number")

    def __init__(self) -> None:
        """None yet."""
        self._number = 0
        self._changed: asyncio.Event | None = None  # where somebody waits

    def __enter__(self) -> None:
        self._number += 1

    def __exit__(self, *_: object) -> None:
        self._number -= 1
        self.stir()

    def __bool__(self) -> bool:
        """Whether a request uses the model."""
        return self._number > 0

    @property
    def number(self) -> int:
        """Requests that use the model."""
        return self._number

    def stir(self) -> None:
        """Have those who wait for `changed` look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def changed(self) -> None:
        """Wait until a request ends."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    async def ended(self) -> None:
        """Wait until no request uses the model; to be asked once none can begin to."""
        while self._number:
            await self.changed()


class Sleep(Protocol):
    """Of a model that may be put to sleep while nobody uses it. Lives on the event loop."""

    @property
    def asleep(self) -> bool:
        """Whether it sleeps, is about to, or is being woken."""

    @property
    def trouble(self) -> str:
        """Why it could not be woken, for people; empty: nobody has tried, or it was."""

    async def wake(self, deadline: float | None) -> None:
        """Have it awake; for those who use it, so that it does not fall asleep again before they have asked it.

        `deadline`: on the clock of `time.monotonic`; None: whenever.

        Raises:
            OverloadedError: expected; there is no memory for it, or too many wait for it.
            FailedPreconditionError: expected; it cannot be loaded again.
            DeadlineExceededError: expected; that takes too long.
            UnavailableError: expected; the server drains.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to answer: what it is, and the queue in front of it."""

    bundle: Bundle
    network: NetworkSummary
    runtime: str
    device: str
    precision: str
    batch_sizes: tuple[int, ...]
    batcher: ModelQueue
    outputs: frozenset[str] = DEFAULT_OUTPUTS  # that a request may ask for, by name
    geometries: frozenset[str] | None = None  # that a request may choose; None: those of the server
    choice: ClassChoice | None = None  # of requests that do not choose classes; None: that of the server
    agreement: Agreement | None = None  # of the reduced precision that was considered, with float32
    uses: Uses = field(default_factory=Uses, repr=False, compare=False)  # by requests
    sleep: Sleep | None = field(default=None, repr=False, compare=False)  # None: it is always awake
    identity: ModelIdentity = field(init=False)
    classes: Classes = field(init=False, repr=False, compare=False)  # by name

    def __post_init__(self) -> None:
        identity = ModelIdentity(self.bundle.name, self.bundle.version, self.bundle.weights_digest)
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "classes", Classes(self.bundle))

    def output_sizes(self) -> dict[str, int]:
        """How many numbers each output has for an image, by name."""
        classes = len(self.bundle.labels)
        return {name: self.network.embedding if name == EMBEDDING else classes for name in sorted(self.outputs)}

    @property
    def asleep(self) -> bool:
        """Whether it has to be woken before it answers."""
        return self.sleep is not None and self.sleep.asleep

    def close(self, seconds: float | None = None) -> bool:
        """Compute what is queued and take no more; what the model holds is free once nobody refers to it.

        Returns:
            Whether that was done within `seconds`; None: however long it takes.
        """
        return self.batcher.close(seconds)
