"""How the threads of a process take turns at the cores."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from glimpse.server.machine import cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def test_a_process_that_feeds_a_device_takes_its_turn_at_once_again() -> None:
    """Although it was begun by one that takes long turns. In a thread, for only that is changed here."""
    found: list[int] = []

    def turns() -> None:
        cores.share_in_long_turns()
        found.append(os.sched_getscheduler(0))
        cores.take_turns_at_once()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=turns)
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH, os.SCHED_OTHER]
