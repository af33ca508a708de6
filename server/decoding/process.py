"""The server's end of one decoder process: start it, give it an image, wait no longer than is allowed, end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import IO, cast

from glimpse.models.child_environment import child_environment
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding import worker_protocol
from glimpse.server.decoding.prepare import Prepared
from glimpse.server.decoding.worker import Orders
from glimpse.server.processes.child_output import ChildOutput

_MODULE = "glimpse.server.decoding.worker"
START_SECONDS = 60.0  # until a process that has not said hello is taken for one that never will
_DEATH_SECONDS = 5.0  # for the kernel to take a process down
_LAST_SECONDS = 0.2  # between the end of a connection and that of its process


class LostError(Exception):
    """The process has ended, or must be; the message says why, as the end of a sentence."""


class DecoderProcess:
    """One decoder process, for one thread at a time."""

    def __init__(self, limits: ImageLimits, memory_bytes: int, seconds: float) -> None:
        """Start it; returns at once.

        Args:
            limits: what an image may cost.
            memory_bytes: that decoding one may take.
            seconds: that decoding one may take.

        Raises:
            OSError: the system has no room for another process, or for a thread that reads what it says.
        """
        self._seconds = seconds
        self._greeted = False
        self._socket, theirs = socket.socketpair()
        # Of its own: of several processes that share one, the kernel tells only the last that its other end is closed.
        lifeline, self._held = os.pipe()
        try:
            # A new program, not a fork of this one, which has threads, open ports and memory full of strangers'
            # images. And no two have the same addresses, so that a crash teaches nobody where the next one's code is.
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
                [sys.executable, "-P", "-m", _MODULE, Orders(limits, memory_bytes, lifeline).written()],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(lifeline,),
                process_group=0,  # out of reach of a terminal's Ctrl+C from its first moment on
                env={
                    **child_environment(),
                    "OPENBLAS_NUM_THREADS": "1",  # NumPy would start threads that nobody uses, with their stacks
                },
            )
        except OSError:
            self._socket.close()
            os.close(self._held)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        said = cast("IO[bytes]", self._process.stderr)
        try:
            self._output = ChildOutput(said, "decoder")
        except RuntimeError as error:
            said.close()
            self.close()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self._process.pid)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def await_hello(self) -> None:
        """Wait until it is ready; at once where it has been before.

        Raises:
            LostError: expected; it does not become so.
        """
        if not self._greeted:
            self._wait_at_most(START_SECONDS)
            if self._receive(len(worker_protocol.HELLO)) != worker_protocol.HELLO:
                cause = self.ending(f"it was not ready after {START_SECONDS:g} s")
                said = self.said()
                raise LostError(f"{cause}, and said: {said}" if said else cause)
            self._wait_at_most(self._seconds)
            self._greeted = True

    def prepare(self, image: domain.Image, recipe: Recipe) -> Prepared:
        """From bytes to the network's input.

        Raises:
            InvalidImageError: expected; what the process says of the image.
            LostError: expected; the process has ended or must be, and its reply is lost.
        """
        begun = time.monotonic()
        late = f"it took more than {self._seconds:g} s"
        try:
            self._socket.sendall(worker_protocol.request(image, recipe))
        except OSError as error:  # BlockingIOError after the time that is allowed, BrokenPipeError where nobody reads
            raise LostError(self.ending(late)) from error
        size = worker_protocol.reply_size(recipe)
        frame = self._receive(size)
        if len(frame) < size:
            raise LostError(self.ending(late))
        try:
            return worker_protocol.read_reply(frame, recipe, time.monotonic() - begun)
        except ValueError as error:
            raise LostError("its reply could not be understood") from error

    def ending(self, otherwise: str = "") -> str:
        """How it ended; `otherwise` where it has not."""
        try:
            code = self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return otherwise
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with {code}"

    def said(self) -> str:
        """The last that it said on standard error; "" where it has said nothing. For the log, not for callers."""
        return self._output.tail(0.0 if self.alive else _LAST_SECONDS)

    def kill(self) -> None:
        """End it, whatever it does; whoever waits for it gets a `LostError`. May be called from any thread."""
        self._process.kill()

    def close(self) -> None:
        """End it and leave nothing of it."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # held up by the kernel: it dies when that lets it go
            self._process.wait(_DEATH_SECONDS)
        self._socket.close()
        os.close(self._held)

    def _wait_at_most(self, seconds: float) -> None:
        """How long sending and receiving may block.

        The kernel's own timeout: Python's would make several system calls of each, and every one of them waits for the
        interpreter's lock when it returns.
        """
        whole = int(seconds)
        limit = struct.pack("@ll", whole, max(1, int((seconds - whole) * 1_000_000)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def _receive(self, size: int) -> memoryview:
        """So many bytes; fewer where the other end has gone or takes too long."""
        frame = memoryview(bytearray(size))
        try:
            return frame[: self._socket.recv_into(frame, size, socket.MSG_WAITALL)]
        except OSError:  # BlockingIOError after the time that is allowed, ConnectionResetError where nobody is
            return frame[:0]
