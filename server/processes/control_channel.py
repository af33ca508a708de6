"""The control channel: JSON messages and open files between the supervisor and one of its processes.

A Unix socket of the kind that keeps messages apart (SOCK_SEQPACKET). What is large travels as a file in memory
(`memory_file`), whose descriptor is part of the message. Both ends are processes of one server, so that what comes over
it is trusted. Linux only.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

_LARGEST = 64 << 10  # bytes of a message without its files
_MOST_FILES = 16  # in one message


class Message(NamedTuple):
    """One message: a JSON object, and the files that came with it, which belong to whoever received it."""

    body: dict[str, Any]
    files: tuple[int, ...] = ()  # descriptors

    def close(self) -> None:
        """Close the files that nobody took."""
        for file in self.files:
            os.close(file)


class ControlChannel:
    """One end of a channel. Sending may be done by any thread; receiving, by one at a time."""

    def __init__(self, connected: socket.socket) -> None:
        """Take a connected socket, which is closed with the channel."""
        self._socket = connected

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """A channel, and the socket of its other end, to be inherited by a process and then closed here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls, descriptor: int) -> Self:
        """The end that a process has inherited as an open descriptor."""
        return cls(socket.socket(fileno=descriptor))

    def send(self, body: dict[str, Any], files: Sequence[int] = ()) -> bool:
        """Send a message; `files` are descriptors, which stay open here.

        Returns:
            Whether it could be sent; not so where the other process has ended, or does not read.

        Raises:
            ValueError: you should fix your code; the message is too large.
        """
        encoded = json.dumps(body).encode()
        if len(encoded) > _LARGEST or len(files) > _MOST_FILES:
            raise ValueError(f"A message has at most {_LARGEST} bytes and {_MOST_FILES} files. Send a file in memory.")
        try:
            # Not `socket.send_fds`, which forgets its flags.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
            self._socket.sendmsg([encoded], [rights] if files else [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; waits for it. None: the other end is closed."""
        self._socket.settimeout(None)
        return self._take()

    async def received(self) -> Message | None:
        """The next message, awaited on the event loop. None: the other end is closed."""
        loop = asyncio.get_running_loop()
        self._socket.settimeout(0.0)
        while True:
            try:
                return self._take()
            except BlockingIOError:
                pass
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._socket, _done, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._socket)

    def close(self) -> None:
        """Close this end; the other one receives None."""
        self._socket.close()

    def _take(self) -> Message | None:
        space = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        files = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        if not data:
            Message({}, tuple(files)).close()
            return None
        return Message(json.loads(data), tuple(files))


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def memory_file(name: str, content: bytes = b"") -> int:
    """A file that lies in memory, freed when the last process that holds it has ended, however that ends.

    Args:
        name: shown in /proc, for people.
        content: what it holds; its position is at the beginning.

    Returns:
        Its descriptor, which child processes do not inherit.
    """
    file = os.memfd_create(name, os.MFD_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, file)
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.lseek(file, 0, os.SEEK_SET)
        undo.pop_all()
    return file


def read_memory_file(file: int) -> bytes:
    """All that such a file holds; closes it."""
    try:
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
