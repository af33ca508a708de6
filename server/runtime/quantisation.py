"""Quantisation as the server sees it: with which pictures a network is made int8, and the result, kept or made now.

NNCF, which does it, runs in a process that ends (`server.runtime.conversion_worker`, `server.runtime.quantising`). What
it makes is kept beside the converted networks, under a hash of all that it follows from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import calibration_pictures, golden, variations
from glimpse.models import labels as classes
from glimpse.models.bundle import Bundle
from glimpse.models.calibration_pictures import UNKNOWN, CalibrationPictures
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.spec import NetworkSummary
from glimpse.models.train import files
from glimpse.models.train.reading import network_input
from glimpse.server import build
from glimpse.server.machine import cores
from glimpse.server.nouns import noun
from glimpse.server.runtime.converted_key import identity

PACKAGE = "nncf"
_EXTRA = "int8"
_GENERIC = 100  # crops of photographs that calibrate where there is nothing better
_PART = 3  # of the pictures every third one calibrates; the others are compared with

Source = Literal["bundle", "folder", "photographs"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What the process that quantises is told."""

    bundle: Bundle
    graph: Path  # of the converted network
    summary: NetworkSummary
    pixels: NDArray[np.uint8]  # [N, *recipe.pixels_shape], which calibrate
    careful: bool  # keep the most sensitive layers in float32, and take longer


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures that calibrate, and others to compare with."""

    source: Source
    digest: str  # of all of them
    pixels: NDArray[np.uint8]  # [N, *recipe.pixels_shape], which calibrate
    held_out: NDArray[np.uint8]  # [M, *recipe.pixels_shape]; may be none
    classes: NDArray[np.int64]  # [M], of those held out; UNKNOWN where it is not known
    photographs: tuple[golden.SampleImage, ...]  # of which crops are compared with where none are held out

    def series(self, recipe: Recipe) -> Iterator[NDArray[np.uint8]]:
        """An endless series of pictures that did not calibrate: those held out, then random crops of them."""
        yield from self.held_out
        if len(self.held_out):
            shown = self.held_out[..., : recipe.depth]
            grey = recipe.depth == 1
            images = [Image.fromarray(each[..., 0] if grey else each).convert("RGB") for each in shown]
            yield from variations.crops(images, recipe)
        yield from variations.crops(variations.opened(self.photographs), recipe)


def installed() -> bool:
    """Whether a network can be quantised here."""
    return find_spec(PACKAGE) is not None


def check_installed() -> None:
    """Refuse to quantise where that cannot be done.

    Raises:
        ValueError: it is not installed; the message says what to do.
    """
    if not installed():
        raise ValueError(
            f"The precision int8 needs {PACKAGE}, which is not installed. Install it with pip install "
            f"'glimpse-serve[{_EXTRA}]', or set GLIMPSE_PRECISION to auto."
        )


def pictures(bundle: Bundle, folder: Path | None) -> Pictures:
    """The pictures for a network: its bundle's own, those of a folder, or crops of photographs that come with Glimpse.

    Args:
        bundle: of the network.
        folder: folder or zip file of images like those that will be sent; those in folders that are named like a class
            of the network are of that class.

    Raises:
        BundleError: the bundle's own cannot be read.
        ValueError, OSError: the folder's images cannot be read, or are too few; the message says what to do.
    """
    if (found := calibration_pictures.read(bundle)) is not None:
        return _divided("bundle", found)
    if folder is not None:
        return _divided("folder", _of_folder(bundle, folder))
    photographs = golden.photographs()
    # Other crops of the same photographs would be no others.
    series = variations.crops(variations.opened(photographs[::2]), bundle.recipe)
    nothing = np.empty((0, *bundle.recipe.pixels_shape), np.uint8)
    return Pictures(
        source="photographs",
        digest=variations.digest(()),
        pixels=np.stack([*islice(series, _GENERIC)]),
        held_out=nothing,
        classes=np.empty(0, np.int64),
        photographs=photographs[1::2],
    )


def key(bundle: Bundle, found: Pictures, *, careful: bool) -> str:
    """A hash of everything that the int8 network of a bundle follows from."""
    told = f"{careful} {cores.saturates()}"
    parts = [identity(bundle), found.source, found.digest, told, str(build.version(PACKAGE))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _divided(source: Source, found: CalibrationPictures) -> Pictures:
    calibrates = np.arange(len(found.pixels)) % _PART == 0
    return Pictures(
        source=source,
        digest=found.digest,
        pixels=found.pixels[calibrates],
        held_out=found.pixels[~calibrates],
        classes=found.classes[~calibrates],
        photographs=(),
    )


def _of_folder(bundle: Bundle, folder: Path) -> CalibrationPictures:
    """Up to 300 images of a folder, in a random order that is the same each time.

    Raises:
        ValueError, OSError: it cannot be read, or has too few images.
    """
    whole = hashlib.sha256()
    pixels: list[NDArray[np.uint8]] = []
    known: list[int] = []
    try:
        with files.open_images(folder, SUFFIXES) as images:
            for number in calibration_pictures.chosen(len(images)):
                data = images[number].read()
                try:
                    pixels.append(network_input(data, bundle.recipe))
                except files.UnreadableError:  # a stray file; there are enough others, or else it is said
                    continue
                known.append(_class(images[number].name, bundle))
                whole.update(hashlib.sha256(data).digest())
    except files.UnreadableError as error:
        raise ValueError(f"An image of GLIMPSE_CALIBRATION={folder} {error}.") from error
    if len(pixels) < calibration_pictures.FEWEST:
        raise ValueError(
            f"GLIMPSE_CALIBRATION={folder} has {len(pixels)} {noun(len(pixels), 'image')} that can be read, and at "
            f"least {calibration_pictures.FEWEST} are needed: a third calibrates, the others are compared with."
        )
    return calibration_pictures.of_images(pixels, known, whole.hexdigest())


def _class(name: str, bundle: Bundle) -> int:
    """Of the image of that name in a folder of classes; UNKNOWN where it is in none."""
    parent = PurePosixPath(name).parent.name
    if not parent:
        return UNKNOWN
    try:
        return classes.indices([parent], bundle.labels, data="", model="")[parent]
    except ValueError:
        return UNKNOWN
