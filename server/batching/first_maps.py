"""Images that ask for class maps, until what computes maps is there: making it takes seconds, and others go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from glimpse.models.outputs import CLASS_MAPS
from glimpse.server.batching.waiting import Waiting

_log = logging.getLogger(__name__)


class FirstMaps:
    """Holds those images back. All but its own thread calls it with the lock of the batcher."""

    def __init__(
        self,
        prepare: Callable[[], None] | None,
        ended: Callable[[bool], None],
        *,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Nothing is prepared before the first image asks for it.

        Args:
            prepare: makes ready what computes maps; None: it always is.
            ended: called in a thread without the lock once `prepare` has ended: whether it succeeded. It is to `take`
                the images.
            seconds: after which `prepare` counts as hung.
            clock: seconds that only rise.
        """
        self._prepare, self._ended = prepare, ended
        self._seconds, self._clock = seconds, clock
        self._held: list[Waiting] = []
        self._begun: float | None = None  # of what is under way

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, image: Waiting) -> bool:
        """Whether an image has to wait; then it is kept here.

        Where the process may have no further thread it need not: what computes maps is made with its batch, in which
        others wait for it.
        """
        if self._prepare is None or CLASS_MAPS not in image.outputs:
            return False
        if self._begun is None:
            # It cannot be interrupted, and must not keep the process alive.
            thread = threading.Thread(target=self._run, args=(self._prepare,), name="class maps", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _log.warning("no thread to make class maps ready in; it is done within a batch", exc_info=True)
                return False
            self._begun = self._clock()  # the thread cannot have ended before: the lock is ours
        self._held.append(image)
        return True

    def trouble(self) -> str | None:
        """What keeps the images that are held from being answered, for people; None: nothing does."""
        seconds = 0.0 if self._begun is None else self._clock() - self._begun
        if seconds <= self._seconds:
            return None
        return f"What computes class maps has been made ready for {seconds:.0f} s."

    def take(self, *, ready: bool = False) -> list[Waiting]:
        """All that is held, which is no longer; `ready`: no other image has to wait from now on."""
        held, self._held = self._held, []
        if ready:
            self._prepare = None
        return held

    def purge(self) -> int:
        """Let go of those for which nobody waits any more; returns how many there were."""
        before = len(self._held)
        self._held = [image for image in self._held if not image.cancelled()]
        return before - len(self._held)

    def over(self) -> None:
        """The attempt has ended: the next image that is held begins another one."""
        self._begun = None

    def _run(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
        except Exception:  # noqa: BLE001 - whatever it is, it fails those who wait for it alone
            _log.exception("what computes class maps could not be made ready")
            self._ended(False)  # noqa: FBT003 - what it is called with is said above
        else:
            self._ended(True)  # noqa: FBT003
