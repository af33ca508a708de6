"""Something made from files, and made anew when their contents change, without a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from glimpse.models.files import bounded_files
from glimpse.server.processes.startup import CredentialsError

_log = structlog.get_logger(__name__)

_MOST = 16 << 20  # bytes of a file; a hundred thousand tokens have that

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """A value and the files that it comes from.

    Contents are compared, not times: what is swapped by a symbolic link, as Kubernetes does, may well be older.
    """

    def __init__(self, what: str, files: Sequence[Path], make: Callable[[Sequence[bytes]], T]) -> None:
        """Read `files` and `make` the value; `what` names it to people.

        Raises:
            CredentialsError: expected; the files cannot be read or used.
        """
        self._what = what
        self._files = tuple(files)
        self._make = make
        self._seen = self._contents()
        self.value = self._made(self._seen)
        """What the files said when they could last be used. Replaced as a whole, so any thread may read it."""
        self.stale = False
        """Whether the files say something else by now, which cannot be used."""

    def look(self) -> None:
        """Look at the files; where they have changed for the better, take them, else keep what there is and say so.

        Whoever replaces several files does so one after the other: what does not fit together now may in a moment.
        """
        seen = self._contents()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.value = self._made(seen)
        except CredentialsError as error:
            self.stale = True
            _log.warning("kept the old", what=self._what, detail=str(error))
        else:
            self.stale = False
            _log.info("took the new", what=self._what)

    def _made(self, contents: tuple[bytes | str, ...]) -> T:
        read: list[bytes] = []
        for each in contents:
            if isinstance(each, str):
                raise CredentialsError(each)
            read.append(each)
        return self._make(read)

    def _contents(self) -> tuple[bytes | str, ...]:
        """What is in the files; of one that cannot be read, why."""
        return tuple(_content(file) for file in self._files)


def _content(file: Path) -> bytes | str:
    try:
        return bounded_files.read(file, _MOST)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}."
    except ValueError as error:
        return f"{file} cannot be read: {error}."
