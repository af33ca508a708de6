"""Our programs in processes that are forked from one which has imported them: a tenth of what a start costs.

What such a process lacks is the start itself: finding an interpreter, and what Python and its libraries read from the
environment when they begin. Tests of those start the program.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLI = ROOT / "client" / "cli.py"
_LARGEST = 1 << 17  # bytes of a request: the arguments and the environment
# What Python, gRPC, Rich or a runtime read when they are imported or first used, as they do in a shell.
_READ_EARLY = ("PYTHON", "LC_", "LANG", "GRPC_", "FORCE_", "PY_COLORS", "TERM", "NO_COLOR", "GITHUB_")
_READ_EARLY_BY_RUNTIMES = ("OMP_", "OPENBLAS_", "MKL_", "TF_", "KERAS_", "ONEDNN_", "CUDA_", "LD_", "MALLOC_")


def inherits(environment: Mapping[str, str]) -> bool:
    """Whether a forked process behaves with those variables as one that is started with them."""
    return not any(name.startswith((*_READ_EARLY, *_READ_EARLY_BY_RUNTIMES)) for name in environment)


class Forked:
    """A process that was forked; used like `subprocess.Popen`, as far as tests need it."""

    def __init__(self, arguments: Sequence[str], told: int) -> None:
        """`told`: a descriptor from which the process' id and, later, its exit status are read; closed at its end."""
        self.args = list(arguments)
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._told = open(told, "rb", buffering=0)  # noqa: SIM115 - closed with the process' end
        words = b""
        while not words.endswith(b"\n"):
            read = self._told.read(1)
            assert read, "the server of forks ended"
            words += read
        self.pid = int(words)

    def poll(self) -> int | None:
        """Its exit status as `subprocess` tells it; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it goes on for longer than `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self._look(0.5 if end is None else min(0.5, max(0.0, end - time.monotonic())))) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
                words = self._told.read()
                assert words, "the server of forks ended"
                self.returncode = int(words)
                self._told.close()
            return self.returncode


class ForkServer:
    """A process that forks one for each command."""

    def __init__(self, program: str) -> None:
        """Start it, with this process' environment but for variables of Glimpse and Python.

        Args:
            program: one of `PROGRAMS`.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.startswith(("GLIMPSE_", "PYTHON"))},
            )

    def start(
        self, arguments: Sequence[str], standard: Sequence[int], *, cwd: Path, environment: Mapping[str, str]
    ) -> Forked:
        """Run the program with those arguments, in that folder, with that environment and no other.

        Args:
            arguments: what follows the program's name.
            standard: three descriptors, which become its standard input, output and error; they remain the caller's.
            cwd: its working directory.
            environment: its environment, which `inherits` is true of.
        """
        request = json.dumps({"arguments": [*arguments], "cwd": str(cwd), "environment": dict(environment)})
        told, telling = os.pipe()
        socket.send_fds(self._socket, [request.encode()], [*standard, telling])
        os.close(telling)
        return Forked(arguments, told)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the program to its end; returns what it said."""
        (from_us, to_it), *others = [os.pipe() for _ in range(3)]  # (read, write) of stdin, stdout and stderr
        theirs = [from_us, *(write for _, write in others)]
        started = self.start(arguments, theirs, cwd=cwd, environment=environment)
        for descriptor in theirs:
            os.close(descriptor)
        writer = threading.Thread(target=_write, args=[to_it, stdin])
        writer.start()
        read: list[bytes] = [b""] * 2
        readers = [threading.Thread(target=_read, args=[ours, read, place]) for place, (ours, _) in enumerate(others)]
        for thread in readers:
            thread.start()
        for thread in (*readers, writer):
            thread.join()
        out, err = read
        return subprocess.CompletedProcess(arguments, started.wait(), out, err)

    def close(self) -> None:
        """End it, and with it those of its processes that have not ended."""
        self._socket.close()
        self._process.communicate()


def _write(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb", buffering=0) as pipe:
        pipe.write(content)


def _read(descriptor: int, into: list[bytes], place: int) -> None:
    with open(descriptor, "rb") as pipe:
        into[place] = pipe.read()


def _serve(requests: socket.socket) -> None:
    """Fork for each request; returns in the forked process alone, which is then as the request wants it."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    running: dict[int, int] = {}  # where the exit status goes, by process
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            _reap(running)
        if requests.fileno() not in ready:
            continue
        content, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 4)
        if not content:  # closed, or the tests were killed, and nobody else ends what they started
            for child in running:
                os.kill(child, signal.SIGKILL)
            _reap(running, 0)
            sys.exit()
        *standard, told = descriptors
        if child := os.fork():
            running[child] = told
            os.write(told, f"{child}\n".encode())
            for descriptor in standard:
                os.close(descriptor)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        for descriptor in (*descriptors, *running.values(), woken, waker, requests.fileno()):
            os.close(descriptor)
        requests.detach()
        request = json.loads(content)
        sys.argv[1:] = request["arguments"]
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return


def _reap(running: dict[int, int], options: int = os.WNOHANG) -> None:
    """Tell of those that have ended, by default; with 0, wait until all have."""
    while running and (ended := os.waitpid(-1, options))[0]:
        told = running.pop(ended[0])
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know
            os.write(told, str(os.waitstatus_to_exitcode(ended[1])).encode())
        os.close(told)


def _client() -> None:
    os.environ["GRPC_VERBOSITY"] = "NONE"  # as `client/cli.py` has it, where gRPC is imported
    import grpc_status.rpc_status  # noqa: F401 - loaded before a process is forked, as all here
    from grpc_health.v1 import health_pb2_grpc  # noqa: F401

    from glimpse.client import connection  # noqa: F401
    from glimpse.client.commands.app import app
    from glimpse.v1 import classifier_pb2_grpc  # noqa: F401

    # What typer and Rich load when a command's arguments are read and its help is shown.
    with contextlib.redirect_stdout(io.StringIO()):
        app(["classify", "--help"], standalone_mode=False)


def _server() -> None:
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy begins a thread where it is imported
    import structlog.dev  # noqa: F401 - loaded before a process is forked, as all here
    from PIL import Image

    from glimpse.server import app  # noqa: F401
    from glimpse.server.processes import standard_error  # noqa: F401
    from glimpse.server.runtime import openvino  # noqa: F401
    from glimpse.server.supervisor import plan, supervisor  # noqa: F401

    with contextlib.suppress(ImportError):
        import openvino as _  # noqa: F401
    Image.preinit()


def _run_client() -> None:
    sys.argv[0] = str(CLI)
    runpy.run_path(str(CLI), run_name="__main__")


def _run_server() -> None:
    sys.path[0] = ""  # as with `python -m`
    runpy.run_module("server", run_name="__main__", alter_sys=True)


# What each imports before it forks, and how it is run in the process that was forked.
PROGRAMS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "client": (_client, _run_client),
    "server": (_server, _run_server),
}


def _main() -> None:
    _, name, descriptor = sys.argv
    prepare, run = PROGRAMS[name]
    sys.path[0] = str(ROOT / "src")
    prepare()
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the memory that it shares
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    _serve(socket.socket(fileno=int(descriptor)))
    run()


if __name__ == "__main__":
    _main()
