"""Conversion: a bundle's network as OpenVINO reads it, from the converted-model cache or made now.

With a kept network a server needs neither Keras nor TensorFlow, which take seconds to import and hundreds of
megabytes; without one they run in a process that ends (`server.runtime.conversion_worker`).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import structlog
from filelock import FileLock, Timeout

from glimpse.models.bundle import Bundle
from glimpse.models.spec import NetworkSummary
from glimpse.server.processes import cleanup
from glimpse.server.runtime import UnsupportedNetworkError, converted_cache
from glimpse.server.runtime.conversion_process import convert_elsewhere
from glimpse.server.runtime.converted_cache import Converted
from glimpse.server.runtime.converted_key import identity
from glimpse.server.runtime.quantisation import Orders

SECONDS = 600.0  # that a conversion may take: many times what the large networks of the library take
_POLL = 0.1  # seconds between two looks whether another server has finished
_log = structlog.get_logger(__name__)


class _RefusedError(UnsupportedNetworkError):
    """OpenVINO said that it cannot; it would say so again."""


class _FailedError(UnsupportedNetworkError):
    """Something else went wrong in the conversion; another time it may not."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"The conversion for openvino failed: {cause}")


# By the kind that `server.runtime.conversion_worker` reports.
ERRORS: dict[str, type[Exception]] = {
    "unsupported": _RefusedError,
    "failed": _FailedError,
    "memory": MemoryError,
    "refused": ValueError,
}


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
    return _got(bundle, identity(bundle), seconds, lambda folder: _convert(bundle, folder, seconds))


def get_or_quantise(orders: Orders, key: str, *, seconds: float = SECONDS) -> Converted:
    """The int8 network of a bundle, from the cache or made now, which takes up to minutes.

    Args:
        orders: what is to be made.
        key: a hash of all that it follows from, see `quantisation.key`.
        seconds: that it may take.

    Raises:
        UnsupportedNetworkError: the network cannot be quantised, or that crashed or took too long.
        MemoryError: there was not enough.
        ValueError, OSError: it cannot be written; the message says why.
        StoppedError: expected; the start was told to end.
    """

    def make(folder: Path) -> NetworkSummary:
        _log.info(
            "quantising network",
            model=orders.bundle.name,
            pictures=len(orders.pixels),
            careful=orders.careful,
            detail="This takes up to a minute, or minutes with a large network or where cores are busy.",
        )
        begun = time.monotonic()
        summary = _ordered(orders, folder, seconds)
        _log.info("network quantised", model=orders.bundle.name, seconds=round(time.monotonic() - begun, 2))
        return summary

    return _got(orders.bundle, key, seconds, make)


def kept(key: str) -> Converted | None:
    """The network that is kept as `key`; None where there is none."""
    place = converted_cache.networks_folder()
    return None if place is None or not key else converted_cache.find(place / key)


def _got(bundle: Bundle, key: str, seconds: float, make: Callable[[Path], NetworkSummary]) -> Converted:
    """What is kept as `key`, or else what `make` makes in the folder that it is given."""
    place = converted_cache.networks_folder()
    if place is not None and (found := converted_cache.find(place / key)) is not None:
        return found
    if place is None or not converted_cache.can_keep(place, bundle):
        return _temporary(bundle, make)
    with _locked(place, key, seconds):
        # Another server may have been faster; what it has put there is not to be touched.
        return converted_cache.read(place / key, warns=False) or _kept(place / key, make)


def _temporary(bundle: Bundle, make: Callable[[Path], NetworkSummary]) -> Converted:
    """The network of a bundle, converted now, in a folder that goes when it has been used."""
    place = Path(tempfile.gettempdir())
    if trouble := converted_cache.lacks_room(place, bundle):
        raise OSError(f"The converted model cannot be written to a file. {trouble} {converted_cache.ADVICE}")
    with _new_folder(place) as folder:
        return Converted(folder, make(folder), cached=False)


def _kept(target: Path, make: Callable[[Path], NetworkSummary]) -> Converted:
    """The network of a bundle, converted now, and kept as `target` if that turns out to be possible."""
    shutil.rmtree(target, ignore_errors=True)  # broken, if anything
    with _new_folder(target.parent) as folder:
        try:
            summary = make(folder)
        except _RefusedError as error:
            converted_cache.store_refusal(folder, str(error), target)  # so that the next start need not try it again
            raise
        return converted_cache.store(folder, summary, target) or Converted(folder, summary, cached=False)


@contextlib.contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """A folder in `place` for what is being made; it goes if that fails."""
    started = cleanup.current()
    folder = cast("Path", started.make(lambda: Path(tempfile.mkdtemp(prefix=".", dir=place))))
    try:
        yield folder
    except BaseException:
        started.remove(folder)
        raise


def _convert(bundle: Bundle, folder: Path, seconds: float) -> NetworkSummary:
    """Have the bundle's network converted into `folder`."""
    begun = time.monotonic()
    summary = _convert_elsewhere(bundle, folder, seconds=seconds)
    _log.info("network converted", model=bundle.name, seconds=round(time.monotonic() - begun, 2))
    return summary


def _convert_elsewhere(bundle: Bundle, folder: Path, *, seconds: float) -> NetworkSummary:
    """Have a process convert the bundle into `folder`."""
    _log.info(
        "converting network", model=bundle.name, detail="This takes some ten seconds, or minutes where cores are busy."
    )
    return _ordered(bundle, folder, seconds)


def _ordered(orders: Bundle | Orders, folder: Path, seconds: float) -> NetworkSummary:
    answer = convert_elsewhere(orders, folder, seconds=seconds)
    if "error" in answer:
        kind = ERRORS.get(answer["error"], UnsupportedNetworkError)
        raise kind(answer["message"])
    return converted_cache.read_summary(answer["network"])


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
