"""A process that may begin other processes, and no thread: as where it has all that a limit of a container allows."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def without_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Gives the processes that are begun meanwhile; those that go on are ended with the test."""
    begun: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Noted)
        patch.setattr(threading.Thread, "start", no_more)
        try:
            yield begun
        finally:
            left = [each for each in begun if each.poll() is None]
            for each in left:
                each.kill()
    assert not left, "a process goes on"
