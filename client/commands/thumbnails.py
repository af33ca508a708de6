"""Small pictures beside the answers, in terminals that say they can show them. The file travels as it is: base64.

Two protocols carry whole files, so that nothing has to be decoded here: kitty's
(https://sw.kovidgoyal.net/kitty/graphics-protocol/), which takes PNG alone, and iTerm2's
(https://iterm2.com/documentation-images.html), which takes every format that the server does.

No library is used: those for images in terminals need Pillow, which the client does not have, to decode and encode what
is sent here as it is, in two escape sequences.
"""

from __future__ import annotations

import os
import stat
import sys
from base64 import standard_b64encode
from collections.abc import Callable, Mapping
from enum import Enum

from glimpse.client.commands.find_images import STDIN

ROWS = 8  # of the terminal, that a picture is high; its width follows
MAX_BYTES = 4 * 1024 * 1024  # of a file: a larger one would keep the terminal, which may be far away, from going on
_CHUNK = 4096  # bytes of base64 that kitty takes at a time

_ESCAPE = b"\x1b"
_PNG = b"\x89PNG\r\n\x1a\n"
# How files begin that are sent. What else a terminal would open is its own affair, and no picture that we asked about.
_BEGINNINGS = (_PNG, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


class Protocol(Enum):
    """How a terminal takes a picture."""

    KITTY = "kitty"
    ITERM2 = "iTerm2"


def protocol(environment: Mapping[str, str] = os.environ) -> Protocol | None:
    """What the terminal of this environment understands; None where it says nothing of the kind.

    A multiplexer (tmux, screen) stands between us and the terminal that the other variables speak of. NO_COLOR asks for
    text alone.
    """
    term = environment.get("TERM", "")
    if environment.get("NO_COLOR") or "TMUX" in environment or term.startswith(("screen", "tmux", "dumb")):
        return None
    program = environment.get("TERM_PROGRAM", "")
    if program in {"iTerm.app", "WezTerm", "mintty"} or environment.get("LC_TERMINAL") == "iTerm2":
        return Protocol.ITERM2
    if "KITTY_WINDOW_ID" in environment or term in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty":
        return Protocol.KITTY
    return None


def sequence(data: bytes, how: Protocol) -> bytes | None:
    """What shows a file's picture where the cursor is; None where this terminal cannot, or the file is no picture.

    Nothing of the file gets out of base64, and its name is not sent.

    Args:
        data: the file.
        how: the terminal takes it.
    """
    if how is Protocol.KITTY:
        return _kitty(standard_b64encode(data)) if data.startswith(_PNG) else None
    if not data.startswith(_BEGINNINGS) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return None
    arguments = f"inline=1;size={len(data)};height={ROWS}".encode()
    return _ESCAPE + b"]1337;File=" + arguments + b":" + standard_b64encode(data) + b"\a"


def _kitty(payload: bytes) -> bytes:
    """Transmit and display PNG in chunks, and say nothing back: an answer would be typed into the shell."""
    chunks = [payload[at : at + _CHUNK] for at in range(0, len(payload), _CHUNK)]
    commands = []
    for number, chunk in enumerate(chunks):
        control = f"a=T,f=100,r={ROWS},q=2," if number == 0 else "q=2,"
        more = int(number < len(chunks) - 1)
        commands.append(_ESCAPE + f"_G{control}m={more};".encode() + chunk + _ESCAPE + b"\\")
    return b"".join(commands)


class Thumbnails:
    """Shows each file's picture, and says once what cannot be shown."""

    def __init__(self, how: Protocol | None, say: Callable[[str], None]) -> None:
        """Begin.

        Args:
            how: the terminal takes pictures; None: not at all.
            say: takes a word to whoever asked for them.
        """
        self._how = how
        self._say = say
        self._said: set[str] = set()
        if how is None:
            self._once("This terminal does not report that it can show images; kitty, iTerm2 and WezTerm do.")

    def of(self, path: str) -> bytes | None:
        """What shows the picture in a file; None where it is not shown."""
        if self._how is None or path == STDIN:
            return None
        data = _read(path)
        if data is None:
            return None
        if len(data) > MAX_BYTES:
            self._once(f"Images of more than {MAX_BYTES:,} bytes are not shown.")
            return None
        shown = sequence(data, self._how)
        if shown is None and self._how is Protocol.KITTY:
            self._once("This terminal shows only PNG files.")
        return shown

    def _once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)


def for_stdout() -> Thumbnails | None:
    """Of the standard output; None where that is no terminal, and nobody looks at it."""
    if not sys.stdout.isatty():
        return None
    import typer

    return Thumbnails(protocol(), lambda message: typer.echo(message, err=True))


def _read(path: str) -> bytes | None:
    """A file, or the one byte of it too many; None where it cannot be had again, such as a pipe."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (paths stay the strings that were typed)
            return None
        with open(path, "rb") as file:  # noqa: PTH123  (likewise)
            return file.read(MAX_BYTES + 1)
    except OSError:
        return None
