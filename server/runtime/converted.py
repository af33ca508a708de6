"""Converted networks: what OpenVINO reads, made once from a bundle and kept for the starts after it.

networks/<key>/network.xml    the graph
networks/<key>/network.bin    its weights, which are mapped into memory, not read
networks/<key>/network.json   what the description tells of the network, and the hashes of the two files

With a kept network a server needs neither Keras nor TensorFlow, which take seconds to import and hundreds of
megabytes; without one they run in a process that ends (`server.runtime.conversion`). The key is a hash of all that the
files follow from, our own code included, so that nothing here is ever out of date; what has not been used for a month
is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any, cast

import structlog

from models import bundle as bundles
from models.bundle import Bundle
from models.published import FetchError, cache_folder
from models.spec import NetworkSummary, StageSummary
from server.runtime import UnsupportedNetworkError

GRAPH = "network.xml"
_WEIGHTS = "network.bin"  # OpenVINO's own name for the file beside the graph
_SUMMARY = "network.json"
# By the names under which they are published.
_PACKAGES = ("keras", "keras-nightly", "tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "openvino")
_ROOT = Path(__file__).parents[2]
_MONTH = 30 * 24 * 3600.0
_DAY = 24 * 3600.0
_ADVICE = "GLIMPSE_CACHE names another folder to keep it in, TMPDIR one to do without."
_log = structlog.get_logger(__name__)


class _RefusedError(UnsupportedNetworkError):
    """OpenVINO said that it cannot; it would say so again."""


# By the kind that the process of its own reports.
ERRORS: dict[str, type[Exception]] = {"unsupported": _RefusedError, "memory": MemoryError, "refused": ValueError}


@dataclass(frozen=True, slots=True)
class Converted:
    """A network as files, and what is known of it."""

    folder: Path
    network: NetworkSummary
    kept: bool  # else whoever asked for it removes the folder

    @property
    def graph(self) -> Path:
        """What OpenVINO is told to read."""
        return self.folder / GRAPH


def kept(bundle: Bundle) -> bool:
    """Whether the network of a bundle has been kept, or that there can be none."""
    place = _place()
    try:
        return place is not None and (place / _key(bundle) / _SUMMARY).is_file()
    except OSError:  # another user's folder
        return False


def provide(bundle: Bundle) -> Converted:
    """The network of a bundle, kept or made now, which takes some ten seconds.

    Raises:
        UnsupportedNetworkError: OpenVINO has no counterpart for an operation of the network, or its conversion crashed.
        MemoryError: there was not enough.
        ValueError, OSError: the bundle or its weights cannot be used; the message says why.
    """
    # Whoever exchanged the weights without telling the bundle should hear of it, kept network or not.
    bundle.check_digest()
    key, place = _key(bundle), _place()
    if place is not None:
        if (found := _read(place / key)) is not None:
            with contextlib.suppress(OSError):  # it may lie in an image that cannot be written
                os.utime(place / key / _SUMMARY)  # used today
            return found
        shutil.rmtree(place / key, ignore_errors=True)  # broken, if anything
        place = _for_keeping(place, bundle)
    if place is None and (trouble := _lacks_room(Path(tempfile.gettempdir()), bundle)):
        raise OSError(f"A network is converted into files, and there is no place for them. {trouble} {_ADVICE}")
    folder = Path(tempfile.mkdtemp(prefix=".", dir=place))
    try:
        begun = time.monotonic()
        try:
            network = _converted_elsewhere(bundle, folder)
        except _RefusedError as error:
            if place is not None:  # so that the next start need not try it again
                _keep(folder, {"unsupported": str(error)}, place / key)
            raise
        _log.info("network converted", model=bundle.name, seconds=round(time.monotonic() - begun, 2))
        if place is not None:
            files = {name: bundles.digest(folder / name) for name in (GRAPH, _WEIGHTS)}
            if _keep(folder, {"files": files, "network": asdict(network)}, place / key):
                return Converted(place / key, network, kept=True)
            if (found := _read(place / key)) is not None:  # another server was faster
                shutil.rmtree(folder, ignore_errors=True)
                return found
        return Converted(folder, network, kept=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _place() -> Path | None:
    """The folder of kept networks; None where there is no home folder to look in."""
    try:
        return cache_folder("networks")
    except FetchError:
        return None


def _for_keeping(place: Path, bundle: Bundle) -> Path | None:
    """The same folder, where one more can be kept in it; else None, and a temporary one has to do."""
    try:
        place.mkdir(parents=True, exist_ok=True)
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
    return f"{place} cannot be written, or lacks room: {free >> 20} MiB are free, {takes >> 20} may be needed."


def _read(folder: Path) -> Converted | None:
    """What is kept in `folder`; None where there is nothing, or something broken.

    Raises:
        UnsupportedNetworkError: what is kept is that there can be none.
    """
    refused, found = "", None
    try:
        values = json.loads((folder / _SUMMARY).read_text("utf-8"))
        if "unsupported" in values:
            refused = str(values["unsupported"])
        elif damaged := [name for name in (GRAPH, _WEIGHTS) if bundles.digest(folder / name) != values["files"][name]]:
            _warn_of(folder, f"{damaged[0]} is not the file that was kept")
        else:
            found = Converted(folder, _summary(values["network"]), kept=True)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _warn_of(folder, str(error))
    if refused:
        raise UnsupportedNetworkError(refused)
    return found


def _warn_of(folder: Path, detail: str) -> None:
    _log.warning("kept network cannot be used", folder=str(folder), detail=detail)


def _keep(folder: Path, summary: dict[str, Any], target: Path) -> bool:
    """Move what was made to where the next start looks for it, complete or not at all; whether it is there."""
    try:
        (folder / _SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # for servers of other users, too
        folder.rename(target)
    except OSError as error:
        _log.info("converted network not kept", detail=str(error))
        return False
    return True


def _tidy(place: Path) -> None:
    """Remove what nobody has used for a month, and what a server that was killed left half made."""
    now = time.time()
    for folder in list(place.iterdir()):
        with contextlib.suppress(OSError):
            if folder.name.startswith("."):
                old = now - folder.stat().st_mtime > _DAY
            else:
                old = now - (folder / _SUMMARY).stat().st_mtime > _MONTH
            if old:
                shutil.rmtree(folder, ignore_errors=True)


def _converted_elsewhere(bundle: Bundle, folder: Path) -> NetworkSummary:
    """Have a process convert the bundle into `folder`."""
    # Keras writes its configuration where it finds none, and a user's own would be in no key.
    configuration = folder / "keras"
    process = subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
        [sys.executable, "-P", "-m", "server.runtime.conversion", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # a terminal's Ctrl+C is the server's to answer; the process ends with it
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "KERAS_HOME": str(configuration),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),  # its start-up chatter is not ours
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        },
    )
    # They are there, for they are asked for.
    orders, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    with process:
        try:
            pickle.dump(bundle, orders)
            orders.flush()
        except BrokenPipeError:  # it ended early; its exit code says more
            with contextlib.suppress(BrokenPipeError):
                orders.close()
        written = answers.read()
        code = process.wait()
    shutil.rmtree(configuration, ignore_errors=True)
    if code < 0 and (name := signal.Signals(-code).name) in ("SIGKILL", "SIGABRT"):
        # The system's way to take memory back, and C++'s way to say that there is none.
        raise MemoryError(f"The process that converts the network was ended by {name}.")
    if code != 0:
        raise UnsupportedNetworkError(f"the process that converts the network for openvino ended with exit code {code}")
    answer = json.loads(written)
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["message"])
    return _summary(answer["network"])


def _key(bundle: Bundle) -> str:
    """A hash of everything that the files follow from."""
    follows_from = {
        "code": _code(),
        "packages": {name: _version(name) for name in _PACKAGES},
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
    for path in sorted([*(_ROOT / "models").rglob("*.py"), *Path(__file__).parent.glob("*.py")]):
        whole.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _summary(values: dict[str, Any]) -> NetworkSummary:
    """From JSON, where a tuple is a list."""
    stages = tuple(
        StageSummary(**{**stage, "output_shape": tuple(stage["output_shape"])}) for stage in values["stages"]
    )
    return NetworkSummary(**{**values, "stages": stages})
