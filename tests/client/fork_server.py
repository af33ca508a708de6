"""The command line in processes that are forked from one which has imported it, which is quicker than a start.

What such a process lacks is the start itself: finding an interpreter, and what Python reads from its environment when
it begins. Tests of those start `client/cli.py`.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLI = ROOT / "client" / "cli.py"
_LARGEST = 1 << 17  # bytes of a request: the arguments and the environment
# What Python, gRPC or Rich read when they are imported, as they do in a shell.
_READ_EARLY = ("PYTHON", "LC_", "LANG", "GRPC_", "FORCE_", "PY_COLORS", "TERM", "NO_COLOR", "GITHUB_")


def inherits(environment: Mapping[str, str]) -> bool:
    """Whether a forked process behaves with those variables as one that is started with them."""
    return not any(name.startswith(_READ_EARLY) for name in environment)


class ForkServer:
    """A process that forks one for each command."""

    def __init__(self) -> None:
        """Start it, with this process' environment but for variables of Glimpse and Python."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.startswith(("GLIMPSE_", "PYTHON"))},
            )

    def run(
        self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `client/cli.py` with those arguments, in that folder, with that environment and no other."""
        request = json.dumps({"arguments": [str(CLI), *arguments], "cwd": str(cwd), "environment": dict(environment)})
        pipes = [os.pipe() for _ in range(4)]  # (read, write) of stdin, stdout, stderr and the exit status
        (from_us, to_it), *others = pipes
        theirs = [from_us, *(write for _, write in others)]
        socket.send_fds(self._socket, [request.encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        writer = threading.Thread(target=_write, args=[to_it, stdin])
        writer.start()
        read: list[bytes] = [b""] * 3
        readers = [threading.Thread(target=_read, args=[ours, read, place]) for place, (ours, _) in enumerate(others)]
        for thread in readers:
            thread.start()
        for thread in (*readers, writer):
            thread.join()
        out, err, status = read
        assert status, f"the server of forks ended: {self._process.poll()}"
        return subprocess.CompletedProcess(arguments, int(status), out, err)

    def close(self) -> None:
        """End it; its processes have ended."""
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
            while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                told = running.pop(ended[0])
                os.write(told, str(os.waitstatus_to_exitcode(ended[1])).encode())
                os.close(told)
        if requests.fileno() not in ready:
            continue
        content, descriptors, _, _ = socket.recv_fds(requests, _LARGEST, 4)
        if not content:
            sys.exit()
        *standard, told = descriptors
        if child := os.fork():
            running[child] = told
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
        sys.argv[:] = request["arguments"]
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return


if __name__ == "__main__":
    sys.path[0] = str(ROOT / "src")
    os.environ["GRPC_VERBOSITY"] = "NONE"  # as `client/cli.py` has it, where gRPC is imported
    import grpc_status.rpc_status  # noqa: F401 - loaded before a process is forked, as all here
    from grpc_health.v1 import health_pb2_grpc  # noqa: F401

    from glimpse.client import connection  # noqa: F401
    from glimpse.client.commands.app import app
    from glimpse.v1 import classifier_pb2_grpc  # noqa: F401

    # What typer and Rich load when a command's arguments are read and its help is shown.
    with contextlib.redirect_stdout(io.StringIO()):
        app(["classify", "--help"], standalone_mode=False)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the memory that it shares
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(str(CLI), run_name="__main__")
