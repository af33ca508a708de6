"""The converted-model cache: networks as OpenVINO reads them, made once from a bundle and kept for later starts.

networks/<key>/network.xml    the graph
networks/<key>/network.bin    its weights, which are mapped into memory, not read
networks/<key>/network.json   what the description tells of the network, and the hashes of the two files
networks/.<key>.lock          while a server converts that network, see `server.runtime.conversion`
networks/.<anything>/         while something is half made

The key is that of `server.runtime.converted_key`. What has not been used for a month is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from glimpse.models.bundle import Bundle
from glimpse.models.files import bounded_files, digests
from glimpse.models.published import FetchError, cache_folder
from glimpse.models.spec import NetworkSummary, StageSummary
from glimpse.server.processes import cleanup
from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtime.converted_key import identity

GRAPH = "network.xml"
ADVICE = "Set GLIMPSE_CACHE to another folder to store it in, or TMPDIR to another folder for temporary files."
_WEIGHTS = "network.bin"  # OpenVINO's own name for the file beside the graph
_SUMMARY = "network.json"
_SUMMARY_BYTES = 4 << 20  # thousands of stages take less
_MONTH = 30 * 24 * 3600.0
_DAY = 24 * 3600.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Converted:
    """A network as files, and what is known of it."""

    folder: Path
    summary: NetworkSummary
    cached: bool  # else whoever asked for it removes the folder

    @property
    def graph(self) -> Path:
        """What OpenVINO is told to read."""
        return self.folder / GRAPH


def is_cached(bundle: Bundle) -> bool:
    """Whether the cache holds the network of a bundle, or that there can be none."""
    place = networks_folder()
    try:
        return place is not None and (place / identity(bundle) / _SUMMARY).is_file()
    except OSError:  # another user's folder
        return False


def networks_folder() -> Path | None:
    """The folder of kept networks; None where there is no home folder to look in."""
    try:
        return cache_folder("networks")
    except FetchError:
        return None


def can_keep(place: Path, bundle: Bundle) -> bool:
    """Whether the network of a bundle can be kept in `place`, as far as can be told; what is out of use there goes."""
    try:
        cleanup.current().make_folders(place)
        _tidy(place)
        trouble = lacks_room(place, bundle)
    except OSError as error:
        trouble = f"{error}."
    if trouble:
        _log.info("converted network not kept", detail=f"{trouble} {ADVICE}")
    return not trouble


def lacks_room(place: Path, bundle: Bundle) -> str:
    """Why a network cannot be written there; empty: it can, as far as can be told."""
    free, takes = shutil.disk_usage(place).free, 3 * bundle.weights_bytes
    if os.access(place, os.W_OK | os.X_OK) and free >= takes:
        return ""
    return f"{place} is not writable or is full: {free >> 20} MiB are free, and {takes >> 20} MiB may be needed."


def find(folder: Path) -> Converted | None:
    """What is kept, marked as used today before it is read, so that nobody takes it for forgotten meanwhile."""
    with contextlib.suppress(OSError):  # it may lie in an image that cannot be written, or not be there
        os.utime(folder / _SUMMARY)
    return read(folder)


def read(folder: Path, *, warns: bool = True) -> Converted | None:
    """What is kept in `folder`; None where there is nothing, or something broken, of which it `warns`.

    Raises:
        UnsupportedNetworkError: what is kept is that there can be none.
    """
    refused, broken, found = "", "", None
    try:
        values = bounded_files.parse_json(bounded_files.read_text(folder / _SUMMARY, _SUMMARY_BYTES))
        if "unsupported" in values:
            refused = str(values["unsupported"])
        elif damaged := [name for name in (GRAPH, _WEIGHTS) if digests.digest(folder / name) != values["files"][name]]:
            broken = f"{damaged[0]} has changed since it was stored"
        else:
            found = Converted(folder, read_summary(values["network"]), cached=True)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        broken = str(error)
    if broken and warns:
        _log.warning("kept network cannot be used", folder=str(folder), detail=broken)
    if refused:
        raise UnsupportedNetworkError(refused)
    return found


def store(folder: Path, summary: NetworkSummary, target: Path) -> Converted | None:
    """Keep what was made in `folder` as `target`, or take what another server has kept there meanwhile.

    None: it cannot be kept, and stays in `folder`.
    """
    files = {name: digests.digest(folder / name) for name in (GRAPH, _WEIGHTS)}
    if _move(folder, {"files": files, "network": asdict(summary)}, target):
        return Converted(target, summary, cached=True)
    if (found := read(target)) is not None:
        cleanup.current().remove(folder)
    return found


def store_refusal(folder: Path, reason: str, target: Path) -> None:
    """Keep as `target`, made in `folder`, that there can be no such network."""
    _move(folder, {"unsupported": reason}, target)


def _move(folder: Path, description: dict[str, Any], target: Path) -> bool:
    """Move what was made to where the next start looks for it, complete or not at all; whether it is there."""
    try:
        (folder / _SUMMARY).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
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


def read_summary(values: dict[str, Any]) -> NetworkSummary:
    """From JSON, where a tuple is a list."""
    stages = tuple(
        StageSummary(**{**stage, "output_shape": tuple(stage["output_shape"])}) for stage in values["stages"]
    )
    maps = values.get("maps")
    own = {"stages": stages, "notes": tuple(values["notes"]), "maps": None if maps is None else tuple(maps)}
    return NetworkSummary(**{**values, **own})
