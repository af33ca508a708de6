"""Random weights for any architecture, for benchmarks and demonstrations: reproducible by their seed, of no use else.

random/<key>.safetensors   in GLIMPSE_CACHE: the weights, float16, which are read as any other file of weights

A process of its own makes the file, with Keras, so that whoever wants it need not load Keras; it takes seconds, and
none where the file is there already. The key is a hash of the network, of the seed and of the code that builds it. What
has not been used for a month is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any, cast

from glimpse.models import keras_start, published
from glimpse.models.bundle import ClassLabel
from glimpse.models.child_environment import child_environment
from glimpse.models.errors import BundleError
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.published import FetchError, cache_folder
from glimpse.models.spec import Architecture

TAG = "random"
_SEED = re.compile(rf"{TAG}(?::(\d{{1,9}}))?")
_PACKAGES = ("keras", "tensorflow")  # that draw the numbers
_MONTH = 30 * 24 * 3600.0
_MIDDLE = 127.5  # of pixel values
_FOLDER = Path(__file__).parent


def seed(tag: str) -> int | None:
    """The seed that a tag of weights names: 0 for ``random``, 7 for ``random:7``; None: it names others."""
    found = _SEED.fullmatch(tag)
    return int(found[1] or 0) if found else None


def name(row: Architecture, number: int) -> str:
    """What a model with random weights is called, so that no reply can be taken for that of a trained one."""
    return f"{row.name}_{TAG}" + (f"_{number}" if number else "")


def labels(row: Architecture) -> tuple[ClassLabel, ...]:
    """Labels for an architecture's own number of classes: "class 0", "class 1" and so on."""
    return tuple(ClassLabel(f"class {index}") for index in range(row.classes))


def recipe(row: Architecture) -> Recipe:
    """A pre-stem for a network with random weights: that of its published weights, or else values from -1 to 1."""
    for tag in published.tags(row.name, row.variant):
        found = published.find(row.name, row.variant, tag).recipe
        if found.shape == row.shape:
            return found
    height, width, channels = row.shape
    return Recipe(
        height=height,
        width=width,
        channels="GRAY" if channels == 1 else "RGB",
        mean=(_MIDDLE,) * channels,
        std=(_MIDDLE,) * channels,
        padding=row.padding,
    )


def file(
    row: Architecture, options: Mapping[str, Any], *, classes: int, input_shape: tuple[int, int, int], number: int
) -> Path:
    """The file of an architecture's random weights, made now or at an earlier call.

    Args:
        row: the architecture.
        options: those that `row` was found with.
        classes: number of classes.
        input_shape: (height, width, channels).
        number: the seed. Equal seeds give equal weights with equal versions of Glimpse, Keras and TensorFlow.

    Raises:
        BundleError: the network cannot be built, or the file cannot be written; the message says why.
    """
    network = {
        "architecture": row.name,
        "variant": row.variant,
        "options": dict(options),
        "classes": classes,
        "input_shape": input_shape,
        "seed": number,
    }
    try:
        folder = cache_folder(TAG)
        path = folder / f"{_key(network)}.safetensors"
        if path.is_file():
            with contextlib.suppress(OSError):  # of another user: it is in use
                os.utime(path)
            return path
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        handle, beside = tempfile.mkstemp(dir=folder, prefix=".")
    except (FetchError, OSError) as error:
        raise BundleError(
            f"The random weights cannot be stored: {error}. Set GLIMPSE_CACHE to a folder that can be written."
        ) from error
    os.close(handle)
    try:
        _made_elsewhere({**network, "path": beside})
        Path(beside).chmod(0o644)  # for servers of other users, too
        Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def _key(network: dict[str, Any]) -> str:
    whole = hashlib.sha256(json.dumps(network, sort_keys=True, default=str).encode())
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            whole.update(metadata.version(package).encode())
    for each in sorted([*(_FOLDER / "families").glob("*.py"), *(_FOLDER / "blocks").glob("*.py"), Path(__file__)]):
        whole.update(each.read_bytes())
    return whole.hexdigest()[:32]


def _tidy(folder: Path) -> None:
    """Remove what nobody has used for a month."""
    for path in list(folder.iterdir()):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _MONTH:
                path.unlink()


def _made_elsewhere(orders: dict[str, Any]) -> None:
    environment = {
        **child_environment(),
        "KERAS_BACKEND": "tensorflow",  # another one would draw other numbers
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }
    with subprocess.Popen(  # noqa: S603 - this very interpreter, with a module of ours
        [sys.executable, "-P", "-m", __name__, json.dumps(orders)],
        stdin=subprocess.PIPE,  # its end is how the process learns that nobody waits for it any more
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        said = cast("IO[bytes]", process.stdout).read().decode(errors="replace").strip()
    if process.returncode != 0:
        cause = said or f"the process that makes them ended with code {process.returncode}"
        raise BundleError(f"The random weights of {orders['architecture']} cannot be made: {cause}")


def _make(orders: dict[str, Any]) -> int:
    """Make the file, in the process that was started for it; returns its exit code."""
    path = Path(orders["path"])

    def follow() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing comes but the end; `sys.stdin` would be locked as Python ends
        path.unlink(missing_ok=True)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    keras_start.import_keras()
    import keras

    from glimpse.models import weights
    from glimpse.models.builder import assemble
    from glimpse.models.catalogue import find
    from glimpse.models.messages import short

    try:
        keras.utils.set_random_seed(orders["seed"])
        row = find(orders["architecture"], orders["variant"], orders["options"])
        made = assemble(row, classes=orders["classes"], input_shape=tuple(orders["input_shape"]))
        # Half the size; as random as they were.
        weights.save(made.model, path, dtype="float16")
    except (ValueError, OSError, MemoryError) as error:
        sys.stdout.write(short(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_make(json.loads(sys.argv[1])))
