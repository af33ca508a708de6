"""The folder of samples: an image file and a JSON file each, within limits of their number, bytes and age.

Several processes may share a folder: a lock file, in which the totals are kept, lets one of them at a time change it.
Names are hashes, and files are readable for their owner alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

POSSIBLE = fcntl is not None  # without locks, processes that share a folder could not keep its limits
MARK = ".glimpse-samples"  # the lock file, by which training knows the folder, too: `models.train.samples`
_LOCK_SECONDS, _PAUSE = 5.0, 0.01  # until a lock that another process holds is given up, and between two attempts
_LOOK_SECONDS = 60.0  # between two looks at all files, by whichever process
_STRAY_SECONDS = 600.0  # after which a file that belongs to no sample is deleted
_SPARE = 0.05  # of a limit: so much room is made at once, because all files have to be looked at for it
_SIDE = ".json"
# The files of samples, and such as are half written. Whatever else lies in the folder is somebody's, and stays.
_OURS = re.compile(r"\.?[0-9a-f]{32}\.(?:json|jpg|png|webp|gif|bmp)(?:\.part)?")
_LARGEST = 1 << 20  # bytes of a JSON file that is read
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the folder may hold."""

    images: int
    bytes: int  # of all files
    seconds: float  # after which a sample is deleted


@dataclass(slots=True)
class _Sample:
    """The files of one sample, as a look at the folder finds them."""

    files: list[str] = field(default_factory=list)
    bytes: int = 0
    since: float = 0.0  # when the image was written, seconds since 1970
    complete: bool = False  # its JSON file is there


@dataclass(slots=True)
class Totals:
    """What the folder holds."""

    images: int = 0
    bytes: int = 0
    looked: float = 0.0  # when all files were looked at, seconds since 1970; 0: never


class SampleFolder:
    """Adds, labels and deletes. For one thread of each process; every method may wait for the disk."""

    def __init__(self, path: Path, limits: Limits, *, clock: Callable[[], float] = time.time) -> None:
        """Nothing is touched yet; `clock` gives seconds since 1970."""
        self._path, self._limits, self._clock = path, limits, clock
        self.totals = Totals()  # as they were last known here
        self.deleted = 0  # samples, by this process

    def open(self) -> None:
        """Make the folder, if it does not exist, and look at what it holds.

        Raises:
            OSError: expected; it cannot be made, read or written.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as totals:
            self._look(totals)

    def add(self, name: str, image: bytes, suffix: str, facts: Mapping[str, Any]) -> None:
        """Keep a sample; of one that is there, the reasons are added to its own.

        Args:
            name: of its files, without suffix: 32 hexadecimal digits.
            image: the content of its image file.
            suffix: of that file, with the dot.
            facts: the content of its JSON file, with a list of `reasons`.

        Raises:
            OSError: expected; it cannot be written, or is larger than all may be.
        """
        with self._locked() as totals:
            known = self._read(name)
            if known is not None:
                known["reasons"] = list(dict.fromkeys([*known.get("reasons", ()), *facts["reasons"]]))
                self._rewrite(name, {**facts, **known}, totals)
                return
            content = _json({**facts, "file": name + suffix})
            size = len(image) + len(content)
            self._make_room(size, totals)
            self._write(name + suffix, image)
            try:
                self._write(name + _SIDE, content)
            except OSError:
                self._delete_file(name + suffix)
                raise
            totals.images += 1
            totals.bytes += size

    def facts(self, name: str) -> Facts | None:
        """What the JSON file of a sample says; None: there is no such sample."""
        return self._read(name)

    def label(self, name: str, true_class: str) -> bool:
        """Write the true class into the JSON file of a sample; whether there is such a sample.

        Raises:
            OSError: expected; it cannot be written.
        """
        if not (self._path / (name + _SIDE)).exists():  # mostly, which is not worth a lock
            return False
        with self._locked() as totals:
            facts = self._read(name)
            if facts is None:
                return False
            self._rewrite(name, {**facts, "true_class": true_class}, totals)
        return True

    def tidy(self) -> None:
        """Delete what is too old, and count anew, unless another process has done so just now.

        Raises:
            OSError: expected; the folder cannot be read or written.
        """
        with self._locked() as totals:
            if not 0 <= self._clock() - totals.looked < _LOOK_SECONDS:
                self._look(totals)

    def _look(self, totals: Totals) -> dict[str, _Sample]:
        """Look at all files, and delete those that are too old; returns the samples that are left."""
        now = self._clock()
        found: dict[str, _Sample] = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                if not _OURS.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                stat = entry.stat(follow_symlinks=False)
                name, _, suffix = entry.name.lstrip(".").partition(".")
                sample = found.setdefault(name, _Sample())
                sample.files.append(entry.name)
                sample.bytes += stat.st_size
                if suffix == _SIDE[1:]:
                    sample.complete = True
                if suffix != _SIDE[1:] or not sample.since:
                    sample.since = stat.st_mtime
        for name, sample in list(found.items()):
            most = self._limits.seconds if sample.complete and len(sample.files) > 1 else _STRAY_SECONDS
            if now - sample.since > most:
                self._delete(sample)
                del found[name]
        whole = {name: sample for name, sample in found.items() if sample.complete}
        totals.images, totals.looked = len(whole), now
        totals.bytes = sum(sample.bytes for sample in found.values())
        return whole

    def _make_room(self, size: int, totals: Totals) -> None:
        """Delete the oldest samples, those without a true class first, until another one fits.

        Raises:
            OSError: expected; it is larger than all may be, or a file cannot be deleted.
        """
        most = self._limits
        if size > most.bytes:
            raise OSError(f"a sample of {size} bytes is larger than GLIMPSE_SAMPLES_MAX_BYTES")
        if totals.images < most.images and totals.bytes + size <= most.bytes:
            return
        samples = self._look(totals)
        images = min(int(most.images * (1 - _SPARE)), most.images - 1)
        room = min(int(most.bytes * (1 - _SPARE)), most.bytes - size)
        ordered = sorted(samples, key=lambda name: samples[name].since)
        labelled: list[str] = []
        for name in ordered:
            if totals.images <= images and totals.bytes <= room:
                return
            if (self._read(name) or {}).get("true_class"):
                labelled.append(name)
            else:
                self._delete(samples[name], totals)
        for name in labelled:
            if totals.images <= images and totals.bytes <= room:
                return
            self._delete(samples[name], totals)

    def _delete(self, sample: _Sample, totals: Totals | None = None) -> None:
        for file in sample.files:
            self._delete_file(file)
        self.deleted += sample.complete
        if totals is not None:
            totals.images -= 1
            totals.bytes -= sample.bytes

    def _delete_file(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._path / name).unlink()

    def _read(self, name: str) -> Facts | None:
        try:
            descriptor = os.open(self._path / (name + _SIDE), os.O_RDONLY | _NO_FOLLOW)
            with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
                found = json.loads(file.read(_LARGEST))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _rewrite(self, name: str, facts: Facts, totals: Totals) -> None:
        path, content = self._path / (name + _SIDE), _json(facts)
        before = path.stat().st_size
        self._write(name + _SIDE, content)
        totals.bytes += len(content) - before

    def _write(self, name: str, content: bytes) -> None:
        """Write a file as a whole or not at all."""
        part = self._path / f".{name}.part"
        self._delete_file(part.name)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(content)
            now = self._clock()
            os.utime(part, (now, now))
            part.replace(self._path / name)
        except OSError:
            self._delete_file(part.name)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Totals]:
        """The totals, which are written back when the block ends, while no other process changes the folder.

        Raises:
            OSError: expected; the lock file cannot be opened, another process holds it for too long, or there is none
                in a folder whose files only look like samples.
        """
        if not (self._path / MARK).exists() and any(map(_OURS.fullmatch, os.listdir(self._path))):  # noqa: PTH208
            # Somebody's photos, named by a hash as well: they would be deleted as strays.
            raise FileExistsError(f"{self._path} holds images, but no {MARK}. Name an empty folder")
        descriptor = os.open(self._path / MARK, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
        try:
            _lock(descriptor)
            totals = _totals(os.pread(descriptor, 4096, 0))
            if not totals.looked:
                self._look(totals)
            try:
                yield totals
            finally:
                text = json.dumps({"images": totals.images, "bytes": totals.bytes, "looked": totals.looked})
                os.pwrite(descriptor, f"{text:<200}\n".encode(), 0)
                self.totals = totals
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Have the lock until the file is closed.

    Raises:
        TimeoutError: expected; another process has held it for too long.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError("another process holds the lock of the folder") from None
            time.sleep(_PAUSE)
        else:
            return


def _totals(content: bytes) -> Totals:
    """What a lock file says; that nobody has looked yet, where it is new or damaged."""
    try:
        found = json.loads(content)
        return Totals(int(found["images"]), int(found["bytes"]), float(found["looked"]))
    except (ValueError, KeyError, TypeError):
        return Totals()


def _json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode()
