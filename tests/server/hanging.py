"""`python -m tests.server.hanging`: the server, with a runtime that hangs as long as the file of HANG_WHILE exists."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from server import __main__
from server.runtime import choice


class Hanging:
    """A real runtime, now and then without an answer."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, pixels: Any) -> Any:
        _wait()
        return self._runtime(pixels)

    def alone(self, pixels: Any) -> Any:
        _wait()
        return self._runtime.alone(pixels)


def _wait() -> None:
    while Path(os.environ["HANG_WHILE"]).exists():
        time.sleep(0.05)


if __name__ == "__main__":
    build = choice.build
    choice.build = lambda *arguments, **options: Hanging(build(*arguments, **options))
    sys.exit(__main__.main())
