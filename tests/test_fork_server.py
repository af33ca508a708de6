"""What forks our programs for tests leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.conftest import ROOT
from tests.fork_server import ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux alone")


def test_what_has_not_ended_ends_with_the_server_of_forks() -> None:
    """As where the tests are killed, whose end of the socket the kernel closes."""
    forks = ForkServer("client")
    waits, held = os.pipe()
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - no path
            standard = [waits, nothing.fileno(), nothing.fileno()]
            started = forks.start(["classify", "-"], standard, cwd=ROOT, environment={"PATH": os.environ["PATH"]})
        assert started.poll() is None
        forks.close()
        assert started.wait(60) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(started.pid, 0)
    finally:
        os.close(waits)
        os.close(held)
