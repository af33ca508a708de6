"""The token that a server asks for, from an argument, a file or the environment."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glimpse.client import texts

# RFC 6750's `b64token`. Anything else could not travel in a header, and is most likely another file.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Token:
    """A bearer token; safe to share between threads."""

    def __init__(self, *, value: str = "", file: str | os.PathLike[str] | None = None, name: str = "token") -> None:
        """Take the token, or read it.

        Args:
            value: the token itself; without it, `file` is needed.
            file: holds it, and is read again whenever it has changed, so that a new token needs no restart.
            name: where it comes from, for messages.

        Raises:
            OSError: the file cannot be read.
            ValueError: what is there is no token.
        """
        self.name = name
        self._path = None if file is None else Path(file)
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._value = _checked(value, name) if self._path is None else self._read(self._path)

    def header(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that shows it."""
        if self._path is not None:
            with self._lock:
                # A file that is being replaced may be away or half written for a moment: the token that was good stays.
                try:
                    if _signature(self._path) != self._seen:
                        self._value = self._read(self._path)
                except (OSError, ValueError):
                    pass
        return (("authorization", f"Bearer {self._value}"),)

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which has its own lock and reads the file by itself."""
        return _again, ("" if self._path is not None else self._value, self._path, self.name)

    def _read(self, path: Path) -> str:
        # Before the reading: what changes meanwhile is read again.
        signature = _signature(path)
        try:
            text = texts.decode(path.read_bytes())
        except UnicodeDecodeError as error:
            name = f"{self.name} ({path})"
            raise ValueError(f"The {name} does not hold a bearer token: it is not a text file.") from error
        value = _checked(text, f"{self.name} ({path})")
        self._seen = signature
        return value


def _again(value: str, file: Path | None, name: str) -> Token:
    return Token(value=value, file=file, name=name)


def find(
    token: str | None,
    file: str | os.PathLike[str] | None,
    environment: Mapping[str, str] = os.environ,
) -> Token | None:
    """The token of a client: its arguments go before `GLIMPSE_TOKEN` and `GLIMPSE_TOKEN_FILE`; None where none is set.

    Raises:
        OSError: the file cannot be read.
        ValueError: two at once, or what is there is no token.
    """
    if token is not None and file is not None:
        raise ValueError("Both a token and a token file were given; give one of them.")
    if token is not None:
        return Token(value=token)
    if file is not None:
        return Token(file=file, name="token file")
    value, path = environment.get("GLIMPSE_TOKEN"), environment.get("GLIMPSE_TOKEN_FILE")
    if value and path:
        raise ValueError("Both GLIMPSE_TOKEN and GLIMPSE_TOKEN_FILE are set; unset one of them.")
    if value:
        return Token(value=value, name="GLIMPSE_TOKEN")
    return Token(file=path, name="GLIMPSE_TOKEN_FILE") if path else None


def _signature(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _checked(text: str, name: str) -> str:
    """The token without the white space around it; the message of the error does not repeat it."""
    value = text.strip()
    if not _TOKEN.fullmatch(value):
        raise ValueError(
            f"The {name} does not hold a bearer token: one word of letters, digits and -._~+/ that may end in =. "
            f"Received: {len(value)} characters{' with others among them' if value else ''}."
        )
    return value
