"""`python -m tests.server.hanging`: the server, of which a part hangs as long as a file exists.

That of HANG_WHILE is for the runtime, and may hold the number of the model that is to hang, in the order of loading;
that of HANG_DECODERS_WHILE is for the decoders. Each says in the log that it hangs.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from glimpse.server import __main__
from glimpse.server.decoding import where
from glimpse.server.decoding.prepare import Prepared, prepare
from glimpse.server.runtime import builder


class Hanging:
    """A real runtime, now and then without an answer."""

    _numbers = itertools.count(1)

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._number = next(self._numbers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        _hang("HANG_WHILE", "runtime hangs", str(self._number))
        return self._runtime(*arguments, **options)

    def alone(self, *arguments: Any, **options: Any) -> Any:
        _hang("HANG_WHILE", "runtime hangs", str(self._number))
        return self._runtime.alone(*arguments, **options)


def hanging_decoder(*arguments: Any, **options: Any) -> Prepared:
    """The real decoder, now and then without an end."""
    _hang("HANG_DECODERS_WHILE", "decoder hangs")
    return prepare(*arguments, **options)


def _hang(variable: str, event: str, number: str = "") -> None:
    file = Path(os.environ.get(variable, ""))
    if file.is_file():
        if file.read_text() not in {"", number}:
            return
        structlog.get_logger("hanging").info(event)
    while file.is_file():
        time.sleep(0.05)


if __name__ == "__main__":
    build = builder.build

    def built(*arguments: Any, **options: Any) -> Any:
        found = build(*arguments, **options)
        return found._replace(runtime=Hanging(found.runtime))

    builder.build = built
    where.prepare = hanging_decoder  # type: ignore[attr-defined]
    sys.exit(__main__.main())
