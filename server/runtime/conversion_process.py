"""The process that converts a network, as the server sees it: begun, given its orders, waited for, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from glimpse.models.bundle import Bundle
from glimpse.models.child_environment import child_environment
from glimpse.server.processes import cleanup
from glimpse.server.processes.child_output import ChildOutput
from glimpse.server.runtime import UnsupportedNetworkError, memory_budget, process_limits
from glimpse.server.runtime.quantisation import Orders

_MODULE = "glimpse.server.runtime.conversion_worker"
_ANSWER = 64 << 20  # bytes; that of the largest network has some hundred kilobytes
_REST_SECONDS = 5.0  # to read what a process that has ended has left in the pipe
_NO_MEMORY = ("std::bad_alloc", "MemoryError", "Cannot allocate memory")  # how libraries say it as they abort


class _Ended(NamedTuple):
    code: int | None  # None: it did not end in time
    answer: bytes
    said: str  # on standard error, at last
    killed_for_memory: bool
    allowed: int | None = None  # bytes of memory, where it was ended because it took more


def convert_elsewhere(orders: Bundle | Orders, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Have a process convert a bundle, or quantise a converted one, into `folder`; returns what it answers.

    See `server.runtime.conversion_worker`.

    Raises:
        UnsupportedNetworkError: it gave no answer that can be read, or none within `seconds`; the message says why.
        MemoryError: it ended because memory ran out.
        ValueError: it is a user's own model which takes more memory or time than a network of its size.
        StoppedError: expected; the start was told to end.
    """
    # Keras writes its configuration where it finds none, and a user's own would be in no key.
    configuration = folder / "keras"
    bundle = orders if isinstance(orders, Bundle) else orders.bundle
    ended = _run(orders, bundle, folder, configuration, seconds)
    shutil.rmtree(configuration, ignore_errors=True)
    if ended.code != 0:
        raise _failure(ended, seconds, bundle)
    answer = _answer(ended.answer)
    if answer is None:
        heard = ended.answer[-200:].decode(errors="replace").strip()
        raise UnsupportedNetworkError(
            "The process that converts the model for openvino ended without a valid answer. "
            f"Received: {heard or 'nothing'}.{_told(ended.said)}"
        )
    return answer


def _run(orders: Bundle | Orders, bundle: Bundle, folder: Path, configuration: Path, seconds: float) -> _Ended:
    killed_before = memory_budget.killed_for_memory()
    most = process_limits.memory(bundle)
    process = cleanup.current().run(lambda: _begun(folder, configuration, seconds))
    # They are there, for they are asked for.
    told, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    output = ChildOutput(cast("IO[bytes]", process.stderr), "conversion")
    answer: list[bytes] = []
    reader = _thread(lambda: _read(answers, answer))
    # In a thread, too: a process that does not read would hold it up.
    writer = _thread(lambda: _write(orders, told))
    end = time.monotonic() + seconds
    code: int | None = None
    grown = False
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process_limits.wait(process, seconds, most)
            # What it began goes with it: its answer is complete, and its pipes are to close.
            cleanup.end(process)
            reader.join(max(_REST_SECONDS, end - time.monotonic()) if code == 0 else _REST_SECONDS)
    except MemoryError:
        grown = True
    finally:
        cleanup.end(process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # held up by the kernel: it dies when that lets it go
            process.wait(_REST_SECONDS)
        cleanup.current().forget(process)
        writer.join(_REST_SECONDS)
        if not writer.is_alive():  # else it closes the pipe itself, as soon as it finds that nobody reads
            _close(told)
    cleanup.current().go_on()  # or it was ended because the start was, and nothing is to be told of it
    for_memory = code is not None and code != 0 and memory_budget.killed_for_memory() > killed_before
    return _Ended(code, b"".join(answer), output.tail(), for_memory, most if grown else None)


def _begun(folder: Path, configuration: Path, seconds: float) -> cleanup.Process:
    return subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
        [sys.executable, "-P", "-m", _MODULE, str(folder), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,  # a terminal's Ctrl+C is the server's to answer; the process ends with it
        env={
            **child_environment(),
            "KERAS_BACKEND": "tensorflow",
            "KERAS_HOME": str(configuration),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        },
    )


def _write(orders: Bundle | Orders, told: IO[bytes]) -> None:
    """The pipe stays open: its end is how the process learns that the server has gone."""
    try:
        pickle.dump(orders, told)
        told.flush()
    except (OSError, ValueError):  # it ended early; its exit code says more
        _close(told)


def _read(answers: IO[bytes], answer: list[bytes]) -> None:
    with answers:
        answer.append(answers.read(_ANSWER))


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not written will not be
        pipe.close()


def _thread(do: Any) -> threading.Thread:
    thread = threading.Thread(target=do, name="conversion", daemon=True)
    thread.start()
    return thread


def _answer(written: bytes) -> dict[str, Any] | None:
    """The last line, which is the answer; a library may have printed others before it. None: it is none."""
    lines = written.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and ("network" in answer or "error" in answer) else None


def _failure(ended: _Ended, seconds: float, bundle: Bundle) -> Exception:
    """What to raise for a process that ended otherwise than it should.

    Args:
        ended: how it did.
        seconds: that it had.
        bundle: what it was given. A whole model of a user's own no other runtime is to try in the server itself.
    """
    who, told = "The process that converts the model for openvino", _told(ended.said)
    if not bundle.architecture and (too_much := _too_much(ended, seconds, graph=bool(bundle.graph))):
        return ValueError(f"{who} was ended because it took more than {too_much}{told}")
    if ended.code is None:
        return UnsupportedNetworkError(
            f"{who} was ended because it took more than {seconds:g} s. Allow more time with "
            f"GLIMPSE_CONVERSION_SECONDS, or set GLIMPSE_RUNTIME=tensorflow, which needs no conversion.{told}"
        )
    if ended.killed_for_memory and ended.code == -getattr(signal, "SIGKILL", 9):
        return MemoryError(f"{who} was killed by the system because memory ran out (SIGKILL).{told}")
    name = _signal(ended.code)
    if name == "SIGKILL":
        return UnsupportedNetworkError(f"{who} was killed (SIGKILL), possibly because memory ran out.{told}")
    if name and any(word in ended.said for word in _NO_MEMORY):
        return MemoryError(f"{who} was ended by {name} because memory ran out.{told}")
    how = f"was ended by {name}" if name else f"ended with exit code {ended.code}"
    return UnsupportedNetworkError(f"{who} {how}.{told}")


def _too_much(ended: _Ended, seconds: float, *, graph: bool) -> str:
    """Of what a process took too much, and what to do about it; empty: of nothing."""
    trusted = "If you trust the source of the file,"
    if ended.allowed is not None:
        taken = f"{ended.allowed >> 20} MiB of memory, which is far more than a model of its size needs."
        if graph:
            return f"{taken} Export the network again, for images of the size that the recipe gives."
        return f"{taken} {trusted} set GLIMPSE_RUNTIME=tensorflow, which needs no conversion."
    if ended.code is None:
        return f"{seconds:g} s. {trusted} allow more time with GLIMPSE_CONVERSION_SECONDS."
    return ""


def _signal(code: int) -> str:
    """The name of the signal that an exit code stands for; "" where it stands for none."""
    if code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def _told(said: str) -> str:
    return f" It said: {said}" if said else ""
