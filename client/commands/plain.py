"""Text of others on a terminal: nothing of it is obeyed.

Names of files, labels and messages may hold what a terminal obeys: escape sequences that move the cursor, set a title
or write into the clipboard; controls of eight bits, which do the same; controls of the direction of text, by which a
line reads as something else. So everything that is printed as text goes through here, whichever stream it goes to, and
whether that is a terminal or a file that somebody will look at in one. What makes colours and bars, which is rich, has
a way of its own.

The library has the same in `models.plain`: client and library import nothing of each other.
"""

from __future__ import annotations

import io
from typing import TextIO, cast

_ASIDE = "\N{REPLACEMENT CHARACTER}"
# Joiners make no more than other shapes of letters, without which Persian and many emoji are written wrongly.
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def plain(text: str, keep: str = "") -> str:
    """`text` on one line, with a replacement character for each one that a terminal would obey.

    Args:
        text: from a file, its name, a server, or whoever.
        keep: characters that stay, such as line breaks of our own.
    """
    if text.isprintable():
        return text
    kept = _JOINERS + keep
    return "".join(char if char.isprintable() or char in kept else _ASIDE for char in text)


class PlainText(io.TextIOWrapper):
    """A standard stream: whatever is printed there is plain text."""

    def write(self, text: str, /) -> int:
        """Write text, without what a terminal would obey; lines and tabs stay."""
        return super().write(plain(text, "\n\t"))

    def write_sequences(self, text: str) -> int:
        """Write text as it is; for those who make colours, and make their words plain themselves."""
        return super().write(text)


class _Sequences:
    """The other way into a `PlainText`, as a stream."""

    def __init__(self, stream: PlainText) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        return self._stream.write_sequences(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def sequences(stream: TextIO) -> TextIO:
    """A stream for rich, whose colours and bars are made of what is kept from all other text."""
    return cast("TextIO", _Sequences(stream)) if isinstance(stream, PlainText) else stream
