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

    def __init__(self, prepare: Callable[[], None] | None, ended: Callable[[bool], None]) -> None:
        """Nothing is prepared before the first image asks for it.

        Args:
            prepare: makes ready what computes maps; None: it always is.
            ended: called in a thread without the lock once `prepare` has ended: whether it succeeded. It is to `take`
                the images.
        """
        self._prepare, self._ended = prepare, ended
        self._held: list[Waiting] = []
        self._preparing = False

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, image: Waiting) -> bool:
        """Whether an image has to wait; then it is kept here."""
        if self._prepare is None or CLASS_MAPS not in image.outputs:
            return False
        self._held.append(image)
        if not self._preparing:
            self._preparing = True
            # It cannot be interrupted, and must not keep the process alive.
            threading.Thread(target=self._run, args=(self._prepare,), name="class maps", daemon=True).start()
        return True

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
        self._preparing = False

    def _run(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
        except Exception:  # noqa: BLE001 - whatever it is, it fails those who wait for it alone
            _log.exception("what computes class maps could not be made ready")
            self._ended(False)  # noqa: FBT003 - what it is called with is said above
        else:
            self._ended(True)  # noqa: FBT003
