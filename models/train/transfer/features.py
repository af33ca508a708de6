"""What a frozen network makes of images, computed once and kept on disk, so that an epoch of its head takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from glimpse.models.compiling import jit_compile
from glimpse.models.prestem import graph
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.transfer.network import Network
from glimpse.models.train.transfer.plan import TransferPlan
from glimpse.models.train.transfer.progress import Bar

FOLDER = "features"
BATCH = 32  # images; more are no faster on a CPU
VIEWS = 2  # of each image: as it is, and mirrored
_DTYPE = np.float16  # a feature is rounded by less than a two-thousandth; only the head sees them
_LARGEST = float(np.finfo(_DTYPE).max)
_KEPT_EVERY = 8  # batches

Report = Callable[[int], None]  # views that are done


@dataclass(frozen=True, slots=True)
class Features:
    """Features of every view of every image.

    Attributes:
        values: float16 ``[views, N, ...]``, on disk; read as needed.
    """

    values: NDArray[np.float16]

    def __len__(self) -> int:
        return int(self.values.shape[1])

    def take(self, index: NDArray[np.int64], view: NDArray[np.int64] | int = 0) -> NDArray[np.float32]:
        """Features of the images at `index`, each of one view: float32 ``[len(index), ...]``."""
        return np.asarray(self.values[view, index], np.float32)


def of_run(
    network: Network, pixels: NDArray[np.uint8], recipe: Recipe, folder: Path, *, parts: tuple[object, ...]
) -> Features:
    """Features of all images of a run, with a bar; what the run has kept of them is taken.

    Args:
        network: whose features they are.
        pixels: uint8 ``[N, *recipe.pixels_shape]``.
        recipe: of the images.
        folder: of the run.
        parts: what the weights of the network depend on, see `parts_of`.
    """
    model = extractor(network.assembly.model, network.features, recipe)
    key = key_of(pixels, *parts, recipe.digest, network.features.name)
    with Bar("features", VIEWS * len(pixels)) as bar:
        found = compute(model, pixels, folder, key=key, report=bar.update)
        bar.say(f"features: {len(pixels):,} images in {VIEWS} views, {_megabytes(found)} MB in {folder / FOLDER}")
    return found


def parts_of(plan: TransferPlan) -> tuple[object, ...]:
    """What the weights of a network depend on; of random ones, the digest is the same for every architecture."""
    return plan.base_digest, plan.architecture, plan.variant, dict(plan.options)


def _megabytes(features: Features) -> str:
    return f"{features.values.nbytes / 1e6:,.0f}"


def extractor(network: keras.Model, features: keras.KerasTensor, recipe: Recipe) -> keras.Model:
    """uint8 pixels ``[N, *recipe.pixels_shape]`` -> features ``[N, ...]``, in inference mode."""
    pixels = keras.Input(recipe.pixels_shape, dtype="uint8", name="pixels")
    frozen = keras.Model(network.inputs, features)
    scaled = graph.scale(pixels, recipe)
    model = keras.Model(pixels, frozen(scaled, training=False), name="features")
    model.compile(jit_compile=jit_compile())
    return model


def compute(
    model: keras.Model, pixels: NDArray[np.uint8], folder: Path, *, key: str, views: int = VIEWS, report: Report
) -> Features:
    """Features of all images, by batches; what an interrupted run has computed is not computed again.

    Args:
        model: of `extractor`.
        pixels: uint8 ``[N, H, W, C]``.
        folder: of the run.
        key: names everything that the features depend on; those of another key are replaced.
        views: 1: images as they are; 2: mirrored, too.
        report: called with the number of views that are done.

    Raises:
        ValueError: a feature is too large, or not a number.
        OSError: they cannot be written.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    values, state = place / "values.npy", place / "state.json"
    shape = (views, len(pixels), *model.output_shape[1:])
    wanted = {"key": key, "shape": list(shape)}
    done, kept = _kept(values, state, wanted)
    total = views * len(pixels)
    report(done)
    for number, start in enumerate(range(done, total, BATCH), start=1):
        places = np.arange(start, min(start + BATCH, total))
        view, index = np.divmod(places, len(pixels))
        batch = pixels[index]
        batch[view == 1] = batch[view == 1, :, ::-1]
        kept[view, index] = _checked(model, batch)
        end = start + len(places)
        report(end)
        if number % _KEPT_EVERY == 0 or end == total:
            kept.flush()
            _write(state, {**wanted, "done": end})
    return Features(np.load(values, mmap_mode="r"))


def key_of(pixels: NDArray[np.uint8], *parts: Any) -> str:
    """A digest of the images, and of whatever else features depend on."""
    found = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for start in range(0, len(pixels), 64):
        found.update(pixels[start : start + 64].tobytes())
    return f"sha256:{found.hexdigest()}"


def _checked(model: keras.Model, batch: NDArray[np.uint8]) -> NDArray[np.float16]:
    found = np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(batch)), np.float32)
    if not np.abs(found).max() <= _LARGEST:
        raise ValueError(
            "The base gives features that are not finite or too large to train a head on. Are these weights whole, and "
            "is the scaling of the recipe theirs?"
        )
    return found.astype(_DTYPE)


def _kept(values: Path, state: Path, wanted: dict[str, Any]) -> tuple[int, np.memmap[Any, np.dtype[np.float16]]]:
    """How many views are in the file, and the file, open to be written; a new one where there is none of this run."""
    if done := _done(state, wanted):
        with contextlib.suppress(OSError, ValueError):  # removed or damaged: computed anew
            size = values.stat().st_size
            kept = np.lib.format.open_memmap(values, mode="r+")
            if size == kept.offset + kept.nbytes:  # else it was cut off, and mapping it has added zeros
                return done, kept
    state.unlink(missing_ok=True)
    try:
        kept = np.lib.format.open_memmap(values, mode="w+", dtype=_DTYPE, shape=tuple(wanted["shape"]))
        if hasattr(os, "posix_fallocate"):
            # A mapped file that finds the disk full later ends the process with a signal.
            with values.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, values.stat().st_size)
    except OSError as error:
        size = 2 * math.prod(wanted["shape"]) / 1e6
        values.unlink(missing_ok=True)
        raise OSError(
            f"{values} cannot be written: {error.strerror or error}. The features take {size:,.0f} MB. Make room, or "
            "give another --out."
        ) from error
    return 0, kept


def _done(state: Path, wanted: dict[str, Any]) -> int:
    """How many views are in the file; 0 where it is of another run."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        done = int(found.pop("done"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    return done if found == wanted else 0


def _write(path: Path, values: dict[str, Any]) -> None:
    fresh = path.with_name(f"fresh.{path.name}")
    fresh.write_text(json.dumps(values) + "\n", encoding="utf-8")
    fresh.replace(path)
