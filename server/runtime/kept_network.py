"""Networks as a runtime of Keras computes them, kept so that a later start needs neither Keras nor the weights file.

networks/<key>/network.json   what the description tells of the network, what its runtime has to know, and the hashes
                              of the other files
networks/<key>/*              files that the runtime has written, and reads again

It is the folder of `server.runtime.converted_cache`, which removes what has not been used for a month. The key is a
hash of all that such a network follows from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from glimpse.models.bundle import Bundle
from glimpse.models.files import bounded_files, digests
from glimpse.models.map_rows import Head
from glimpse.models.messages import short
from glimpse.models.spec import NetworkSummary
from glimpse.server.processes import cleanup
from glimpse.server.runtime import converted_cache

_DESCRIPTION, _MAPS = "network.json", "maps.safetensors"
_DESCRIPTION_BYTES = 4 << 20
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptNetwork:
    """What an earlier start has kept of a network in one precision."""

    folder: Path
    summary: NetworkSummary
    facts: Mapping[str, Any]  # that the runtime had `save` return, JSON-ready
    hashes: Mapping[str, str]  # of the files, by name

    def check(self) -> None:
        """See that the files are those that were kept.

        Raises:
            ValueError: one of them has changed.
            OSError: it cannot be read.
        """
        for name, found in self.hashes.items():
            if digests.digest(self.folder / name) != found:
                raise ValueError(f"{name} has changed since it was stored")

    def discard(self) -> None:
        """Remove it where that can be done, so that it is kept anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


@runtime_checkable
class Keepable(Protocol):
    """A runtime whose network can be kept, and which takes a `KeptNetwork` in the place of a Keras model."""

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Write the network into files of an empty folder; returns what is to be known beside them, JSON-ready.

        None: it cannot be kept.

        Raises:
            OSError: it cannot be written.
        """


def key(follows_from: Mapping[str, Any]) -> str:
    """The name of a network in the cache.

    Args:
        follows_from: all that it follows from, see `kept_measurements.facts`.
    """
    return hashlib.sha256(json.dumps({**follows_from, "kept": 1}, sort_keys=True).encode()).hexdigest()[:32]


def find(name: str) -> KeptNetwork | None:
    """What is kept as `name`, whose files are still to be checked; None where there is nothing, or something broken."""
    if (place := converted_cache.networks_folder()) is None:
        return None
    folder = place / name
    with contextlib.suppress(OSError):  # used today; it may lie in an image that cannot be written
        os.utime(folder / _DESCRIPTION)
    try:
        values = bounded_files.parse_json(bounded_files.read_text(folder / _DESCRIPTION, _DESCRIPTION_BYTES))
        hashes = {str(each): str(found) for each, found in values["files"].items()}
        if any(Path(each).name != each for each in hashes):
            raise ValueError(f"its files are not in {folder}")  # noqa: TRY301 - one place says what becomes of it
        return KeptNetwork(folder, converted_cache.read_summary(values["network"]), dict(values["facts"]), hashes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("kept network cannot be used", folder=str(folder), detail=short(error))
        return None


def keep(name: str, runtime: Keepable, bundle: Bundle, summary: NetworkSummary) -> bool:
    """Keep the network of a runtime for later starts; whether it is there.

    Args:
        name: see `key`.
        runtime: that has given the recorded answers.
        bundle: of the network.
        summary: what the description tells of the network.

    Raises:
        StoppedError: expected; the start was told to end, and nothing is left of this.
    """
    place = converted_cache.networks_folder()
    if place is None or not converted_cache.can_keep(place, bundle):
        return False
    target, started = place / name, cleanup.current()
    try:
        folder = cast("Path", started.make(lambda: Path(tempfile.mkdtemp(prefix=".", dir=place))))
        try:
            if (facts := runtime.save(folder)) is None:
                return False
            hashes = {each.name: digests.digest(each) for each in folder.iterdir()}
            description = {"files": hashes, "facts": facts, "network": asdict(summary)}
            (folder / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            for each, mode in ((folder, 0o755), *((file, 0o644) for file in folder.iterdir())):
                each.chmod(mode)  # for servers of other users, too
            if _is_sound(name):
                return True  # another server was faster
            shutil.rmtree(target, ignore_errors=True)  # broken, if anything
            started.settle(folder, lambda: folder.rename(target))
        finally:
            started.remove(folder)
    except OSError as error:
        _log.info("network not kept", detail=str(error))
        return False
    _log.info("network kept", folder=str(target))
    return True


def save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays by their names into a safetensors file.

    Raises:
        OSError: it cannot be written.
    """
    try:
        save_file({**arrays}, path)
    except SafetensorError as error:  # also where the disk is full
        raise OSError(f"{path.name} cannot be written. {error}") from error


def save_outputs(names: Sequence[str], head: Head | None, folder: Path) -> dict[str, Any]:
    """Write what a network gives; returns what `read_outputs` has to know beside the files of `folder`, JSON-ready.

    Args:
        names: of all outputs, in the order in which the network gives them.
        head: what makes class maps; None: the network has none. Without numbers in it there is no file.
        folder: of the kept network.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {} if head is None else {"kernel": head.kernel, "bias": head.bias}
    if found := {name: np.ascontiguousarray(each) for name, each in arrays.items() if each is not None}:
        save_arrays(found, folder / _MAPS)
    return {"names": [*names], "maps": head is not None}


def read_outputs(kept: KeptNetwork) -> tuple[tuple[str, ...], Head | None]:
    """The names and the head that `save_outputs` was given; to be called within `reading`."""
    names = tuple(str(name) for name in kept.facts["names"])
    if not kept.facts["maps"]:
        return names, None
    arrays = load_file(kept.folder / _MAPS) if (kept.folder / _MAPS).exists() else {}
    return names, Head(arrays.get("kernel"), arrays.get("bias"))


@contextlib.contextmanager
def reading(*memory: type[Exception]) -> Iterator[None]:
    """Whatever is wrong with the files that are read within it is a ValueError, except what a later try may read.

    `memory`: the framework's own errors for too little memory.
    """
    try:
        yield
    except Exception as error:  # of many kinds, by what is wrong
        if isinstance(error, (OSError, MemoryError, *memory)):
            raise
        raise ValueError(f"the kept program cannot be read: {short(error)}") from error


def _is_sound(name: str) -> bool:
    """Whether it is kept, and has not changed since."""
    found = find(name)
    try:
        if found is not None:
            found.check()
    except (OSError, ValueError):
        return False
    return found is not None
