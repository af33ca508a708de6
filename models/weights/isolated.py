"""Reading a weights file in a separate process: starting the process, and receiving its response.

Files of weights come from anywhere, and their formats are those of whole programs: pickles, HDF5, protobuf. So the
process that parses them (`models.weights.reader`) may fail without harm to its caller, and may take no more memory and
computing than a file of that size explains (`models.weights.limits`). It tells where in the file the numbers are
(`models.weights.response`), so that nothing is copied that need not be.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

from glimpse.models.child_environment import child_environment
from glimpse.models.weights import limits, onnx_file, response
from glimpse.models.weights.contents import Contents, SavedModel
from glimpse.models.weights.errors import WeightsError

_MODULE = "glimpse.models.weights.reader"
_SAID = 4096  # bytes at the end of its standard error that are read
_TOLD = 200  # characters of that in a message
_NO_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory")  # how libraries say it as they abort
OUT_OF_MEMORY = 3  # the exit code for it
_OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)  # not on Windows, where nothing limits the computing
_ELSE = "If other copies of it cannot be read either, save the weights again, or as safetensors."


def contents(file: BinaryIO, path: Path) -> Contents:
    """What a file holds, see `models.weights.files.contents`.

    Args:
        file: the file, open; its position is moved.
        path: of it, for messages, and to find what lies beside an ONNX model.

    Raises:
        WeightsError: it cannot be read, or takes more memory or computing than its size explains.
    """
    found = _told("weights", file, path)
    if not isinstance(found, Contents):
        raise _failed(path, "the process that reads it returned something else")
    return found


def saved_model(file: BinaryIO, path: Path) -> SavedModel:
    """What the file of a whole model of Keras says of it.

    Args and Raises: see `contents`.
    """
    found = _told("model", file, path)
    if not isinstance(found, SavedModel):
        raise _failed(path, "its reader gave another answer")
    return found


def _told(what: Literal["weights", "model"], file: BinaryIO, path: Path) -> Contents | SavedModel:
    own = os.fstat(file.fileno()).st_size
    size = own + onnx_file.beside(path)
    with _scratch() as out, _scratch() as said:
        _run([what, str(size), str(limits.seconds(size)), os.fspath(path)], file, (out, said), size)
        length = out.seek(0, 2)
        if length > limits.decoded(size) + limits.ANSWER + mmap.PAGESIZE:
            raise _failed(path, "the process that reads it returned more than was allowed")
        if not length:
            raise _failed(path, "the process that reads it returned nothing")
        # The arrays are parts of it, and keep it for as long as they live.
        view = memoryview(mmap.mmap(out.fileno(), length, access=mmap.ACCESS_READ))
        try:
            found = response.read(view, file, own)
        except response.MalformedError as error:
            raise _failed(path, f"the process that reads it returned a malformed response ({error})") from error
    if isinstance(found, str):
        raise WeightsError(found)
    return found


def _run(arguments: list[str], file: BinaryIO, outputs: tuple[BinaryIO, BinaryIO], size: int) -> None:
    path, seconds = arguments[-1], limits.seconds(size)
    file.seek(0)
    try:
        code = subprocess.run(  # noqa: S603 - this very interpreter, with a module of ours
            # -P: not to import from the folder that it is started in.
            [sys.executable, "-P", "-m", _MODULE, *arguments],
            stdin=file,
            stdout=outputs[0],
            stderr=outputs[1],
            timeout=limits.PATIENCE * seconds,
            check=False,
            env=_environment(),
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise _too_long(path, f"{limits.PATIENCE * seconds} seconds") from error
    if code == 0:
        return
    outputs[1].seek(max(0, outputs[1].seek(0, 2) - _SAID))
    said = outputs[1].read().decode(errors="replace").strip()
    if code == OUT_OF_MEMORY or any(words in said for words in _NO_MEMORY):
        raise WeightsError(
            f"{path} could not be read within {limits.memory(size) >> 20} MiB of memory, which is far more than a file "
            f"of its size needs. {_ELSE}"
        )
    if code == -_OUT_OF_TIME:
        raise _too_long(path, f"{seconds} seconds of computing")
    last = said.splitlines()[-1:]
    told = f"reading it ended with {_signal(code)}" + (f": {last[0][:_TOLD]}" if last else "")
    raise _failed(Path(path), told)


def _environment() -> dict[str, str]:
    return {
        **child_environment(),
        # Threads that are never used take memory, which is limited.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }


@contextlib.contextmanager
def _scratch() -> Any:
    """A file without a name: in memory where the system has such, so that no folder need be writable."""
    create = getattr(os, "memfd_create", None)
    if create is None:
        with tempfile.TemporaryFile() as file:
            yield file
        return
    with os.fdopen(create("glimpse-weights"), "w+b") as file:
        yield file


def _failed(path: Path, told: str) -> WeightsError:
    return WeightsError(f"{path} is damaged: {told}. Copy it again, or save the weights again, as safetensors.")


def _too_long(path: str, limit: str) -> WeightsError:
    return WeightsError(
        f"{path} could not be read within {limit}, which is far more than a file of its size needs. {_ELSE}"
    )


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
