"""The cache of downloaded checkpoints: complete files only, whose hash is checked at every use.

resnet50-0676ba61.pth               the file, moved here in one step when it was complete and checked
resnet50-0676ba61.pth.sha256        its hash when it was first seen, as `sha256sum --check` reads it
resnet50-0676ba61.pth.lock          while a process is fetching it
resnet50-0676ba61.pth.part          what has come so far, and the ETag to go on with
resnet50-0676ba61.pth.part.etag
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from glimpse.models.files import bounded_files
from glimpse.models.published import packages
from glimpse.models.published.checkpoint import Checkpoint
from glimpse.models.published.download import discard, discard_unless_resumable, download
from glimpse.models.published.progress import progress_bar
from glimpse.models.published.safe_writing import write_atomically
from glimpse.models.published.transfer_limits import DownloadPolicy, FetchError

# A structured log, such as the server's, shows `extra` in place of the sentence: fixed words as `event`, and fields.
_log = logging.getLogger(__name__)

# What this process is fetching now, and the folders that it has made for that, the inner ones first.
_fetching: set[Path] = set()
_folders: list[Path] = []
_guard = threading.Lock()


def cache_folder(holding: str = "weights") -> Path:
    """``GLIMPSE_CACHE``, or else a folder in the platform's cache folder, for example ``~/.cache/glimpse`` on Linux.

    Args:
        holding: the kind of contents. Weights are in ``GLIMPSE_CACHE`` itself, others in a subfolder of this name.

    Raises:
        FetchError: there is no home folder.
    """
    if chosen := os.environ.get("GLIMPSE_CACHE"):
        folder = Path(chosen).expanduser()
        return folder if holding == "weights" else folder / holding
    return _of_the_platform() / "glimpse" / holding


def _of_the_platform() -> Path:
    # The XDG specification has relative paths ignored.
    if (xdg := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        return Path(xdg)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise FetchError("There is no home folder for the cache. Set GLIMPSE_CACHE to a folder.") from error
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    return home / ".cache"


def fetch(checkpoint: Checkpoint, cache: Path | None = None, *, policy: DownloadPolicy | None = None) -> Path:
    """The file of a checkpoint, from the cache or, on first use, from its publisher; or from the package that holds it.

    Its hash is checked on every call, against the one that the publisher states and the SHA-256 that it had at its
    first use. If several processes call this at once, one of them downloads. A file may also be copied into the cache
    by hand.

    Args:
        checkpoint: a row of the catalogue.
        cache: the folder, into which a file in a package is copied; None: `cache_folder()`, and a file in a package is
            used where it is.
        policy: time-outs and limits of the download.

    Raises:
        FetchError: it cannot be downloaded, or is not what was published; the message names the file, its hash, its URL
            and the folder to copy it into by hand.
    """
    if checkpoint.package and cache is None:
        return packages.locate(checkpoint)
    folder = (cache or cache_folder()).absolute()
    path = folder / checkpoint.file
    try:
        if checkpoint.package:
            found = packages.locate(checkpoint)
            _make(folder)
            write_atomically(path, found.read_bytes())
            return path
        if not path.is_file():  # the common case needs no lock, and so no folder that can be written
            _make(folder)
            with _locked(path, (policy or DownloadPolicy()).seconds):
                if not path.is_file():  # nobody else has fetched it meanwhile
                    _download(checkpoint, path, policy or DownloadPolicy())
                    return path
        _check(checkpoint, path, name=path)
    except OSError as error:
        raise FetchError(
            f"{error.filename or folder} cannot be used: {error.strerror or error}. "
            f"Set GLIMPSE_CACHE to a folder that can be read and written, or {_by_hand(checkpoint, folder)}"
        ) from error
    return path


def abandon() -> None:
    """Clean up the downloads of this process, which is about to end; those that can be resumed are kept."""
    with _guard:
        for path in _fetching:
            _lock_file(path).unlink(missing_ok=True)
            discard_unless_resumable(_part(path))
        for folder in _folders:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def _make(folder: Path) -> None:
    with _guard:
        _folders[:0] = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def _locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the file's lock; the system releases it if this process dies.

    Raises:
        FetchError: another process has held it for longer than a download may take.
    """
    lock = FileLock(_lock_file(path))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _log.info(
            "waiting for another process that is downloading %s",
            path,
            extra={"event": "waiting for another download", "file": str(path)},
        )
        try:
            lock.acquire(timeout=seconds)
        except Timeout as error:
            raise FetchError(
                f"Another process has held {_lock_file(path)} for {seconds:,.0f} seconds. End it, or set GLIMPSE_CACHE "
                "to a folder of your own."
            ) from error
    with _guard:
        _fetching.add(path)
    try:
        yield
    finally:
        with _guard:
            _fetching.discard(path)
        lock.release()


def _download(checkpoint: Checkpoint, path: Path, policy: DownloadPolicy) -> None:
    part = _part(path)
    _log.info("fetching %s", checkpoint.url, extra={"event": "fetching weights", "url": checkpoint.url})
    while True:
        resumed = part.exists()
        try:
            with progress_bar(checkpoint.file) as report:
                download(checkpoint.url, part, report, policy)
        except FetchError as error:
            raise FetchError(f"{error} If this machine has no network: {_by_hand(checkpoint, path.parent)}") from error
        try:
            _check(checkpoint, part, name=path)
        except FetchError:
            discard(part)
            if resumed:
                continue  # its beginning, of an earlier day, may be what is wrong
            raise
        part.replace(path)
        discard(part)
        _log.info("fetched %s", path, extra={"event": "weights fetched", "file": str(path)})
        return


def _check(checkpoint: Checkpoint, found: Path, *, name: Path) -> None:
    """Compare `found` with what is known of the file called `name`; of one that is new here, record the hash.

    Raises:
        FetchError: it is another file.
    """
    stated, publisher = checkpoint.checksum, checkpoint.publisher
    origin = str(name) if found == name else f"What {checkpoint.url} sent"
    remedy = f"Delete {name} to fetch it again" if found == name else "It was not kept. Try again on another network"
    hashes = _hashes(found, {"sha256", *([stated.algorithm] if stated else [])})
    if stated and not stated.matches(hashes[stated.algorithm]):
        raise FetchError(
            f"{origin} is not what {publisher} published: its {stated.algorithm} is {hashes[stated.algorithm]}, "
            f"not {stated}. {remedy}, or {_by_hand(checkpoint, name.parent)}"
        )
    record = name.with_name(name.name + ".sha256")
    if (pinned := _pinned(record)) is None:
        _pin(checkpoint, record, hashes["sha256"], name)
    elif pinned != hashes["sha256"]:
        raise FetchError(
            f"{origin} is not the file that was used first: its sha256 is {hashes['sha256']}, not {pinned}. "
            f"{remedy}. If {publisher} has replaced it and you trust the new one, delete {record} too."
        )


def _hashes(path: Path, algorithms: set[str]) -> dict[str, str]:
    digests = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
    with bounded_files.open_file(path) as file:
        while chunk := file.read(1 << 20):
            for digest in digests.values():
                digest.update(chunk)
    return {algorithm: digest.hexdigest() for algorithm, digest in digests.items()}


def _pinned(record: Path) -> str | None:
    try:
        digits = bounded_files.read(record, 1_000).decode("latin-1").partition(" ")[0]
    except FileNotFoundError:
        return None
    except ValueError:  # no plain file
        digits = ""
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise FetchError(f"{record} does not contain a SHA-256. Delete it if you trust the file beside it.")
    return digits


def _pin(checkpoint: Checkpoint, record: Path, sha256: str, name: Path) -> None:
    if checkpoint.checksum is None:
        _log.warning(
            "%s publishes no hash of %s. The first copy has the SHA-256 %s, recorded in %s, and is checked against it "
            "from now on.",
            checkpoint.publisher,
            name.name,
            sha256,
            record,
            extra={
                "event": "no published hash",
                "publisher": checkpoint.publisher,
                "file": name.name,
                "sha256": sha256,
                "record": str(record),
                "detail": "The SHA-256 of the first copy is recorded, and the file is checked against it from now on.",
            },
        )
    try:
        write_atomically(record, f"{sha256}  {name.name}\n".encode())
    except OSError as error:
        # A read-only folder is allowed; whoever fills it is responsible for its files.
        _log.warning(
            "%s cannot be written, so the hash of %s is not recorded: %s",
            record,
            name.name,
            error,
            extra={"event": "hash not recorded", "file": name.name, "record": str(record), "detail": str(error)},
        )


def _by_hand(checkpoint: Checkpoint, folder: Path) -> str:
    stated = checkpoint.checksum
    if stated is None:
        told = f"{checkpoint.publisher} publishes no hash of it"
    else:
        name = {"md5": "MD5", "sha256": "SHA-256"}[stated.algorithm]
        told = f"its {name} {'is' if stated.whole else 'begins with'} {stated.digits}"
    return f"download {checkpoint.url} elsewhere ({told}) and copy it to {folder / checkpoint.file}."
