"""What a start has measured of a network on this machine, for the starts after it.

KIND/<key>.json   in GLIMPSE_CACHE: one measurement, with all that it follows from; the key is a hash of that
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog

from glimpse.models.files import bounded_files
from glimpse.models.published import FetchError, cache_folder
from glimpse.server import build
from glimpse.server.processes import cleanup
from glimpse.server.runtime import converted_key

_MONTH = 30 * 24 * 3600.0
_PACKAGES = ("jax", "jaxlib", "torch")  # that compute; the others are in the hash of the network
_log = structlog.get_logger(__name__)

T = TypeVar("T")


def facts(*, network: str, runtime: str, processor: str, precision: str) -> dict[str, Any]:
    """What every measurement follows from, JSON-ready.

    Args:
        network: a hash of the network and of the code that makes it.
        runtime: by name.
        processor: what computes.
        precision: in which it computes.
    """
    return {
        "network": network,
        "code": converted_key.measuring(),  # what measures, and what is measured
        "runtime": runtime,
        "packages": {name: found for name in _PACKAGES if (found := build.version(name))},
        "processor": processor,
        "precision": precision,
    }


def read(kind: str, follows_from: Mapping[str, Any], parsed: Callable[[Any], T]) -> T | None:
    """What an earlier start has measured; None where there is nothing, or what there is cannot be used.

    Args:
        kind: of measurement, and the name of its folder.
        follows_from: all that the measurement depends on, JSON-ready; see `facts`.
        parsed: makes the value of what was stored; raises ValueError, KeyError or TypeError where that cannot be.
    """
    if (path := _path(kind, follows_from)) is None:
        return None
    try:
        values = bounded_files.parse_json(bounded_files.read_text(path))
        if values["follows_from"] != dict(follows_from):
            raise ValueError("it belongs to something else")  # noqa: TRY301 - one place says what becomes of such a file
        found = parsed(values[kind])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning(f"kept {_words(kind)} cannot be used", file=str(path), detail=str(error))
        return None
    with contextlib.suppress(OSError):  # it may lie in an image that cannot be written
        os.utime(path)  # used today
    return found


def store(kind: str, follows_from: Mapping[str, Any], value: Any) -> bool:
    """Keep what was measured for the starts after this one; whether that could be done.

    Args:
        kind: of measurement, and the name of its folder.
        follows_from: all that the measurement depends on, JSON-ready; see `facts`.
        value: what was measured, JSON-ready.

    Raises:
        StoppedError: expected; the start was told to end, and nothing is left of this.
    """
    if (path := _path(kind, follows_from)) is None:
        return False
    text = json.dumps({"follows_from": dict(follows_from), kind: value}, indent=2) + "\n"
    started = cleanup.current()
    try:
        started.make_folders(path.parent)
        _tidy(path.parent)
        # Written beside it and renamed: a reader sees all of it or nothing.
        file = cast("Path", started.make(lambda: _empty(path.parent)))
        try:
            file.write_text(text, encoding="utf-8")
            file.chmod(0o644)  # for servers of other users, too
            started.settle(file, lambda: file.replace(path))
        except BaseException:
            started.remove(file)
            raise
    except OSError as error:
        _log.info(
            f"{_words(kind)} not kept",
            detail=f"{error}. Every start will measure again. Set GLIMPSE_CACHE to another folder.",
        )
        return False
    return True


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _path(kind: str, follows_from: Mapping[str, Any]) -> Path | None:
    """Where it is kept; None where there is no home folder to look in."""
    key = hashlib.sha256(json.dumps(dict(follows_from), sort_keys=True).encode()).hexdigest()[:32]
    try:
        return cache_folder(kind) / f"{key}.json"
    except FetchError:
        return None


def _empty(folder: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".")
    os.close(handle)
    return Path(name)


def _tidy(folder: Path) -> None:
    """Remove what nobody has used for a month."""
    now = time.time()
    for path in list(folder.iterdir()):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _MONTH:
                path.unlink()
