"""Where answers go: to the standard output, or to a file that an interrupted run can go on with."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from glimpse.client.commands import records
from glimpse.client.commands.records import Format
from glimpse.client.commands.standard import OutputError
from glimpse.client.commands.thumbnails import Thumbnails
from glimpse.client.nouns import noun
from glimpse.client.results import ImageResult


class Output(Protocol):
    """Takes answers."""

    failed: int  # images without a class, those of earlier runs included

    @property
    def summary(self) -> str:
        """What was written where, for people; empty where they see it themselves."""

    def has(self, path: str) -> bool:
        """Whether an earlier run has answered it."""

    def write(self, path: str, result: ImageResult) -> None:
        """Take one answer; whoever looks at the output sees it at once."""


class Stdout:
    """The standard output."""

    def __init__(self, form: Format | None, thumbnails: Thumbnails | None = None) -> None:
        """Records of a format; None: blocks for people, with thumbnails or without."""
        self.failed = 0
        self._form = form
        self._thumbnails = thumbnails
        if form is not None:
            sys.stdout.buffer.write(form.header)

    @property
    def summary(self) -> str:
        """It is in front of whoever looks."""
        return ""

    def has(self, path: str) -> bool:  # noqa: ARG002  (the protocol's)
        """Nothing has been answered before."""
        return False

    def write(self, path: str, result: ImageResult) -> None:
        """Print one answer."""
        self.failed += result.error is not None
        if self._form is None:
            from glimpse.client.commands.render import print_result

            # A file that the server refused is not for the terminal to open, either.
            shown = self._thumbnails is not None and result.error is None
            print_result(path, result, self._thumbnails.of(path) if self._thumbnails and shown else None)
        else:
            sys.stdout.buffer.write(self._form.record(path, result))
            sys.stdout.buffer.flush()  # a program at the other end works on it while the next one is under way


class File:
    """A file that gets each answer in one write: whatever ends the run leaves whole records.

    A last record that a full disk or a machine's end has torn all the same is cut off by `resume`.
    """

    def __init__(self, path: Path, form: Format | None) -> None:
        """Open a file, or make it, for this run alone; a format of None stands for blocks for people.

        Raises:
            OSError: it cannot be opened.
            ValueError: another run writes it.
        """
        self.failed = 0
        self._written = 0  # answers of this run
        self._path = path
        self._form = form
        self._answered: set[bytes] = set()
        self._file = open_alone(path)
        self._is_regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._size = os.fstat(self._file.fileno()).st_size if self._is_regular else 0

    @classmethod
    def opened(cls, path: Path, form: Format | None, *, resume: bool, retry_failed: bool) -> Self:
        """A file that is gone on with, see `resume`, or begun with, see `start`.

        Raises:
            OSError, ValueError: as those.
        """
        file = cls(path, form)
        try:
            if resume:
                file.resume(retry_failed=retry_failed)
            else:
                file.start()
        except BaseException:
            file.close()
            raise
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another run have the file."""
        self._file.close()

    def start(self) -> None:
        """Begin with an empty file.

        Raises:
            ValueError: it holds something.
        """
        if self._size:
            raise ValueError(f"{self._path} exists already. Continue it with --resume, or name another file.")

    def resume(self, *, retry_failed: bool) -> None:
        """Go on after the answers that the file holds.

        Args:
            retry_failed: take out those that failed for a passing reason, to have them classified again.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: it holds something other than such answers; it is left as it was.
        """
        if not self._is_regular or self._form is None:
            raise ValueError(f"{self._path} cannot be continued: --resume needs a regular file with --json or --csv.")
        whole, passing = 0, 0
        with self._path.open("rb") as file:
            self._form = self._form.of_file(file.readline(records.LONGEST))
            file.seek(0)
            for data, record in self._records(file):
                whole += len(data)
                if record is None:
                    continue
                if retry_failed and record.passing:
                    passing += 1
                else:
                    self.failed += record.failed
                    self._answered.add(digest_of(record.path))
        os.ftruncate(self._file.fileno(), whole)
        self._size = whole
        if passing:
            self._take_out_passing()

    @property
    def summary(self) -> str:
        """How many answers this run wrote, and how many there are."""
        earlier, path = len(self._answered), self._path
        if earlier and not self._written:
            return f"{path} has the answers already; nothing was left to do. It holds {_answers(earlier)}."
        if earlier:
            return f"{_answers(self._written)} added to {path}, which now holds {_answers(earlier + self._written)}."
        return f"{_answers(self._written)} written to {path}."

    def has(self, path: str) -> bool:
        """Whether an earlier run has answered it."""
        return bool(self._answered) and digest_of(path) in self._answered

    def write(self, path: str, result: ImageResult) -> None:
        """Add one answer.

        Raises:
            OutputError: it could not be written; the file ends with the one before.
        """
        self.failed += result.error is not None
        if self._form is None:
            from glimpse.client.commands.render import to_text

            data = to_text(path, result).encode(errors="surrogateescape")
        else:
            data = self._form.record(path, result)
            if not self._size:
                data = self._form.header + data
        try:
            write_whole(self._file, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._is_regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), self._size)
            raise OutputError(f"{self._path} cannot be written: {error.strerror}.") from error
        self._size += len(data)
        self._written += 1

    def _records(self, file: BinaryIO) -> Iterator[tuple[bytes, records.Record | None]]:
        """Each whole record, as it stands there and as it is meant; None for the header.

        Raises:
            ValueError: something is no record of this format.
        """
        form = self._form
        if form is None:  # never; for the type checker
            return
        end = 0
        try:
            for number, data in enumerate(records.split(file, form)):
                if number == 0 and not (data.startswith(form.beginning) or form.beginning.startswith(data)):
                    if form.header and data.startswith(b"path,label_1,"):
                        raise ValueError("it has other columns")  # noqa: TRY301  (one message for all that is wrong)
                    raise ValueError("it begins with something else")  # noqa: TRY301  (as above)
                if not form.is_whole(data):
                    return
                yield data, None if number == 0 and form.header else form.read(data)
                end += len(data)
        except ValueError as error:
            raise ValueError(
                f"{self._path} is not the output of this command with these options: {error}"
                f"{f', after {end:,} bytes' if end else ''}. It was left as it is. Use the same options as in the run "
                "that wrote it, such as --top-k and --csv or --json, or name another file."
            ) from error

    def _take_out_passing(self) -> None:
        """Put a file without the answers of passing failures in its place, whole or not at all."""
        place = self._path.resolve()
        partial = place.with_name(f".{place.name}.partial")
        partial.unlink(missing_ok=True)
        new = open_alone(partial)
        with self._path.open("rb") as file:
            for data, record in self._records(file):
                if record is None or not record.passing:
                    write_whole(new, data)
        os.fsync(new.fileno())
        shutil.copymode(place, partial)
        partial.replace(place)
        self._file.close()
        self._file = new
        self._size = os.fstat(new.fileno()).st_size


def open_alone(path: Path) -> BinaryIO:
    """A file to add to, unbuffered, that no other run has open.

    Raises:
        OSError: it cannot be opened.
        ValueError: another run has it open.
    """
    file = path.open("ab", buffering=0)
    try:
        import fcntl  # Unix has it
    except ImportError:
        return file
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"Another run is writing {path}. Wait until it ends, or name another file.") from None
    return file


def _answers(number: int) -> str:
    return f"{number:,} {noun(number, 'answer')}"


def write_whole(file: BinaryIO, data: bytes) -> None:
    """Write all of it, to a file that may take less at a time."""
    while data:
        data = data[file.write(data) :]


def digest_of(path: str) -> bytes:
    """16 bytes for a path of any length: a file that is gone on with may hold millions."""
    from hashlib import blake2b  # loads OpenSSL

    return blake2b(path.encode(errors="surrogatepass"), digest_size=16).digest()
