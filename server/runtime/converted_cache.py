"""Converted networks: what OpenVINO reads, made once from a bundle and kept for the starts after it.

networks/<key>/network.xml    the graph
networks/<key>/network.bin    its weights, which are mapped into memory, not read
networks/<key>/network.json   what the description tells of the network, and the hashes of the two files
networks/.<key>.lock          while a server converts that network
networks/.<anything>/         while something is half made

With a kept network a server needs neither Keras nor TensorFlow, which take seconds to import and hundreds of
megabytes; without one they run in a process that ends (`server.runtime.conversion_worker`). The key is a hash of all
that the files follow from, our own code included, so that nothing here is ever out of date; what has not been used for
a month is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import structlog
from filelock import FileLock, Timeout

from glimpse.models import bounded_files
from glimpse.models import bundle as bundles
from glimpse.models.bundle import Bundle
from glimpse.models.published import FetchError, cache_folder
from glimpse.models.spec import NetworkSummary, StageSummary
from glimpse.server import build, cleanup, runtimes
from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtime.conversion_process import convert_elsewhere

GRAPH = "network.xml"
_WEIGHTS = "network.bin"  # OpenVINO's own name for the file beside the graph
_SUMMARY = "network.json"
_SUMMARY_BYTES = 4 << 20  # thousands of stages take less
# By the names under which they are published.
_PACKAGES = ("keras", "keras-nightly", "tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "openvino")
_PACKAGE = Path(__file__).parents[2]
SECONDS = 600.0  # that a conversion may take: many times what the large networks of the library take
_POLL = 0.1  # seconds between two looks whether another server has finished
_MONTH = 30 * 24 * 3600.0
_DAY = 24 * 3600.0
_ADVICE = "Set GLIMPSE_CACHE to another folder to store it in, or TMPDIR to another folder for temporary files."
_log = structlog.get_logger(__name__)


class _RefusedError(UnsupportedNetworkError):
    """OpenVINO said that it cannot; it would say so again."""


class _FailedError(UnsupportedNetworkError):
    """Something else went wrong in the conversion; another time it may not."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"The conversion for openvino failed: {cause}")


# By the kind that the process of its own reports.
ERRORS: dict[str, type[Exception]] = {
    "unsupported": _RefusedError,
    "failed": _FailedError,
    "memory": MemoryError,
    "refused": ValueError,
}


@dataclass(frozen=True, slots=True)
class Converted:
    """A network as files, and what is known of it."""

    folder: Path
    network: NetworkSummary
    cached: bool  # else whoever asked for it removes the folder

    @property
    def graph(self) -> Path:
        """What OpenVINO is told to read."""
        return self.folder / GRAPH


def is_cached(bundle: Bundle) -> bool:
    """Whether the cache holds the network of a bundle, or that there can be none."""
    place = _cache_folder()
    try:
        return place is not None and (place / identity(bundle) / _SUMMARY).is_file()
    except OSError:  # another user's folder
        return False


def get_or_convert(bundle: Bundle, *, seconds: float = SECONDS) -> Converted:
    """The network of a bundle, from the cache or converted now, which takes some ten seconds.

    Args:
        bundle: what is to be converted.
        seconds: that the conversion may take.

    Raises:
        UnsupportedNetworkError: OpenVINO has no counterpart for an operation of the network, or its conversion crashed
            or took too long.
        MemoryError: there was not enough.
        ValueError, OSError: the bundle or its weights cannot be used; the message says why.
        StoppedError: expected; the start was told to end.
    """
    # Whoever exchanged the weights without telling the bundle should hear of it, cached network or not. What has been
    # seen here is handed on: the process that converts need not read them for their hash again.
    bundle = bundle.verified()
    key, place = identity(bundle), _cache_folder()
    if place is not None:
        if (found := _find(place / key)) is not None:
            return found
        place = _writable_folder(place, bundle)
    if place is None:
        if trouble := _lacks_room(Path(tempfile.gettempdir()), bundle):
            raise OSError(f"The converted model cannot be written to a file. {trouble} {_ADVICE}")
        return _convert(bundle, None, key, seconds)
    with _locked(place, key, seconds):
        # Another server may have been faster; what it has put there is not to be touched.
        if (found := _read(place / key, warns=False)) is not None:
            return found
        shutil.rmtree(place / key, ignore_errors=True)  # broken, if anything
        return _convert(bundle, place, key, seconds)


def _find(folder: Path) -> Converted | None:
    """What is kept, marked as used today before it is read, so that nobody takes it for forgotten meanwhile."""
    with contextlib.suppress(OSError):  # it may lie in an image that cannot be written, or not be there
        os.utime(folder / _SUMMARY)
    return _read(folder)


def _convert(bundle: Bundle, place: Path | None, key: str, seconds: float) -> Converted:
    """The network of a bundle, converted now, and kept in `place` where there is one."""
    started = cleanup.current()
    folder = cast("Path", started.make(lambda: Path(tempfile.mkdtemp(prefix=".", dir=place))))
    try:
        begun = time.monotonic()
        try:
            network = _converted_elsewhere(bundle, folder, seconds=seconds)
        except _RefusedError as error:
            if place is not None:  # so that the next start need not try it again
                _store(folder, {"unsupported": str(error)}, place / key)
            raise
        _log.info("network converted", model=bundle.name, seconds=round(time.monotonic() - begun, 2))
        if place is not None:
            files = {name: bundles.digest(folder / name) for name in (GRAPH, _WEIGHTS)}
            if _store(folder, {"files": files, "network": asdict(network)}, place / key):
                return Converted(place / key, network, cached=True)
            if (found := _read(place / key)) is not None:  # another server was faster
                started.remove(folder)
                return found
        return Converted(folder, network, cached=False)
    except BaseException:
        started.remove(folder)
        raise


@contextlib.contextmanager
def _locked(place: Path, key: str, seconds: float) -> Iterator[None]:
    """Hold the network's lock, so that of several servers one converts and the others take what it keeps.

    It is a file beside the network while it is held. Who cannot have it, or waits for longer than a conversion may
    take, goes on without: each converts into a folder of its own, and the first to move it into place wins.
    """
    path, started, waits = place / f".{key}.lock", cleanup.current(), False
    lock = FileLock(path)
    end = time.monotonic() + seconds

    def taken() -> Path | None:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return path

    try:
        while (held := started.make(taken)) is None and time.monotonic() < end:
            if not waits:
                _log.info("waiting for another server that converts the same network", folder=str(place / key))
            waits = True
            time.sleep(_POLL)
    except OSError as error:  # a file system without locks
        _log.debug("no lock", detail=str(error))
        held = None
    try:
        yield
    finally:
        if held is not None:
            started.remove(path)  # while it is held: whoever waits for it sees that, and makes a new one
            lock.release()


def _cache_folder() -> Path | None:
    """The folder of kept networks; None where there is no home folder to look in."""
    try:
        return cache_folder("networks")
    except FetchError:
        return None


def _writable_folder(place: Path, bundle: Bundle) -> Path | None:
    """The same folder, where one more can be kept in it; else None, and a temporary one has to do."""
    try:
        cleanup.current().make_folders(place)
        _tidy(place)
        trouble = _lacks_room(place, bundle)
    except OSError as error:
        trouble = f"{error}."
    if trouble:
        _log.info("converted network not kept", detail=f"{trouble} {_ADVICE}")
        return None
    return place


def _lacks_room(place: Path, bundle: Bundle) -> str:
    """Why a network cannot be written there; empty: it can, as far as can be told."""
    free, takes = shutil.disk_usage(place).free, 3 * bundle.weights_path.stat().st_size
    if os.access(place, os.W_OK | os.X_OK) and free >= takes:
        return ""
    return f"{place} is not writable or is full: {free >> 20} MiB are free, and {takes >> 20} MiB may be needed."


def _read(folder: Path, *, warns: bool = True) -> Converted | None:
    """What is kept in `folder`; None where there is nothing, or something broken, of which it `warns`.

    Raises:
        UnsupportedNetworkError: what is kept is that there can be none.
    """
    refused, broken, found = "", "", None
    try:
        values = bounded_files.parse_json(bounded_files.read_text(folder / _SUMMARY, _SUMMARY_BYTES))
        if "unsupported" in values:
            refused = str(values["unsupported"])
        elif damaged := [name for name in (GRAPH, _WEIGHTS) if bundles.digest(folder / name) != values["files"][name]]:
            broken = f"{damaged[0]} has changed since it was stored"
        else:
            found = Converted(folder, _summary(values["network"]), cached=True)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        broken = str(error)
    if broken and warns:
        _log.warning("kept network cannot be used", folder=str(folder), detail=broken)
    if refused:
        raise UnsupportedNetworkError(refused)
    return found


def _store(folder: Path, summary: dict[str, Any], target: Path) -> bool:
    """Move what was made to where the next start looks for it, complete or not at all; whether it is there."""
    try:
        (folder / _SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # for servers of other users, too
        cleanup.current().settle(folder, lambda: folder.rename(target))
    except OSError as error:
        _log.info("converted network not kept", detail=str(error))
        return False
    return True


def _tidy(place: Path) -> None:
    """Remove what nobody has used for a month, and what a server that was killed left half made."""
    now = time.time()
    for folder in list(place.iterdir()):
        with contextlib.suppress(OSError):
            if not folder.name.startswith("."):
                if now - _last_use(folder) > _MONTH:
                    _evict(folder, now)
            elif now - folder.stat().st_mtime > _DAY:
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    folder.unlink()  # a lock


def _last_use(folder: Path) -> float:
    return (folder / _SUMMARY).stat().st_mtime


def _evict(folder: Path, now: float) -> None:
    """Remove a network; one that another server begins to use at this moment is put back, or made anew by it."""
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent)) / folder.name
    try:
        folder.rename(aside)
        if now - _last_use(aside) <= _MONTH:
            aside.rename(folder)
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def _converted_elsewhere(bundle: Bundle, folder: Path, *, seconds: float) -> NetworkSummary:
    """Have a process convert the bundle into `folder`."""
    answer = convert_elsewhere(bundle, folder, seconds=seconds)
    if "error" in answer:
        kind = ERRORS.get(answer["error"], UnsupportedNetworkError)
        raise kind(answer["message"])
    return _summary(answer["network"])


def identity(bundle: Bundle) -> str:
    """A hash of everything that the files of a bundle's network follow from, our own code among it."""
    follows_from = {
        "code": _code(),
        "packages": {name: build.version(name) for name in _PACKAGES},
        "weights": bundle.weights_digest,
        "network": [bundle.architecture, bundle.variant, dict(bundle.options)],
        "input_shape": bundle.input_shape,
        "classes": len(bundle.labels),
        "recipe": bundle.recipe.digest,
        "temperature": bundle.temperature,
    }
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A hash of our own code that makes a network of a bundle and says how it is kept."""
    whole = hashlib.sha256()
    ours = [*(_PACKAGE / "models").rglob("*.py"), *Path(__file__).parent.glob("*.py"), Path(runtimes.__file__)]
    for path in sorted(ours):
        whole.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def _summary(values: dict[str, Any]) -> NetworkSummary:
    """From JSON, where a tuple is a list."""
    stages = tuple(
        StageSummary(**{**stage, "output_shape": tuple(stage["output_shape"])}) for stage in values["stages"]
    )
    return NetworkSummary(**{**values, "stages": stages, "notes": tuple(values["notes"])})
