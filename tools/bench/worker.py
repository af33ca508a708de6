"""Processes that do one thing when told: a JSON line in, a JSON line out.

What is measured alone and what makes the load live in processes of their own, so that their CPU time can be told apart.
They stay between the rounds: what is compared is measured alternately, and nothing pays for an import in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class WorkerError(RuntimeError):
    """A worker could not do what it was told; the message holds what it said."""


class Worker:
    """The near end: starts ``python -m MODULE`` and tells it what to do."""

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str] | None = None,
        *,
        python: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Start it, with `environment` on top of ours, and another environment's `python` if one is given."""
        self._module = module
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def do(self, job: str, **arguments: Any) -> Any:
        """Have a job done and wait for what it returns.

        Raises:
            WorkerError: it failed, or the process has ended.
        """
        self.begin(job, **arguments)
        return self.end()

    def begin(self, job: str, **arguments: Any) -> None:
        """Have a job begun; `end` waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"job": job, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"{self._module} has ended before {job!r}.") from error

    def end(self) -> Any:
        """Wait for the job that was begun.

        Raises:
            WorkerError: it failed, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self._module} ended with code {self._process.wait()}; standard error has the reason.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._module}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


def serve(make: Callable[[], Mapping[str, Callable[..., Any]]]) -> None:
    """The far end: make the jobs, then do what standard input says until it ends."""
    # Libraries may print; their lines must not come between ours.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs = make()
    for line in sys.stdin:
        told = json.loads(line)
        try:
            answer = {"result": jobs[told["job"]](**told["arguments"])}
        except Exception as error:  # noqa: BLE001 - whatever it is, the near end is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:
            return  # the near end has gone
