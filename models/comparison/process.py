"""The process in which a model is loaded and measured, as the comparison sees it.

It is `glimpse.server.measuring`, started by its name: a model is to be measured as a server would run it, and the
library imports nothing of the server. Orders and answers are JSON objects, one a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from glimpse.models.child_environment import child_environment

_MODULE = "glimpse.server.measuring"
_SAID = 4096  # bytes at the end of its standard error that are read
_TOLD = 600  # characters of that in a message
_END_SECONDS = 5.0  # that it has to end by itself


class MeasuringError(ValueError):
    """Expected: a model cannot be loaded or measured; the message says which, and why."""


class MeasuringProcess:
    """One model in a process of its own; it ends with the context."""

    def __init__(self, name: str) -> None:
        """Start the process; it loads nothing yet.

        Args:
            name: of the model, for messages.
        """
        self._name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `__exit__`
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env=child_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        streams = (self._process.stdin, self._process.stdout)
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()  # by which it learns that it is to end
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in streams:
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self._said.close()

    def ask(self, order: str, *, progress: Callable[[int], None] | None = None, **values: Any) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Args:
            order: one of those in `glimpse.server.measuring`.
            progress: called with the number of images that are done.
            values: of the order.

        Raises:
            MeasuringError: it cannot be done, or the process ended.
        """
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps({"order": order, **values}) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "done" not in answer:
                    break
                if progress:
                    progress(answer["done"])
            else:
                raise self._ended()
        except OSError:
            raise self._ended() from None
        if "error" in answer:
            raise MeasuringError(f"{self._name}: {answer['error']}")
        return answer

    def _ended(self) -> MeasuringError:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            code = 0
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _SAID))
        said = self._said.read().decode(errors="replace").strip().replace("\n", " | ")[-_TOLD:]
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        memory = " Perhaps there was not enough memory; compare fewer models at a time." if code == -9 else ""
        return MeasuringError(
            f"{self._name}: the process that measures it ended with {how}.{memory}{said and f' It said: {said}'}"
        )
