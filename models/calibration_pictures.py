"""Pictures in a bundle with which a server makes an int8 network of it, and compares that network with float32.

    calibration.safetensors   in the folder of the weights: up to 300 pictures of the network's size, as JPEG files

    jpeg      uint8 [bytes]   the files, one after the other
    ends      int64 [N]       where each of them ends
    classes   int64 [N]       the true class of each, by its place among the labels; -1 where it is not known

The file may come from an untrusted source: it is read up to a limit, and each picture as one that a caller sends.
Neither a framework nor gRPC is imported here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.bundle import DESCRIPTION, Bundle
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files, whole_files
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe

FILE = "calibration.safetensors"
MOST = 300  # pictures
FEWEST = 150  # pictures, or a bundle is without: a third calibrates, and the others have to be enough to compare with
UNKNOWN = -1  # class
_BYTES = 3_000_000  # of all pictures
_FILE_BYTES = _BYTES + (1 << 16)
# Of JPEG, tried in turn until all pictures fit: the last takes 10 KB for a photograph of 224 pixels.
_QUALITIES = (95, 90, 85, 75, 60)


@dataclass(frozen=True, slots=True)
class CalibrationPictures:
    """Pictures as the network takes them, in a random order."""

    pixels: NDArray[np.uint8]  # [N, *recipe.pixels_shape]
    classes: NDArray[np.int64]  # [N]; UNKNOWN where it is not known
    digest: str  # of what they were read from


def chosen(number: int) -> NDArray[np.int64]:
    """Which of so many images are taken: up to `MOST`, in a random order that is the same each time."""
    return np.random.default_rng(0).permutation(number)[:MOST]


def write(folder: Path, pixels: NDArray[np.uint8], classes: NDArray[np.int64], recipe: Recipe) -> bool:
    """Put pictures into the folder of a bundle, in the place of earlier ones; whether there were enough of them.

    Args:
        folder: of the bundle.
        pixels: uint8 ``[N, *recipe.pixels_shape]``, of images that the network was not trained on.
        classes: ``[N]``, the true ones.
        recipe: of the bundle.

    Raises:
        OSError: the file cannot be written.
    """
    which = chosen(len(pixels))
    files = _encoded(pixels[which, ..., : recipe.depth]) if len(which) >= FEWEST else []
    if len(files) < FEWEST:  # or the network takes very large pictures
        remove(folder)
        return False
    tensors: dict[str, NDArray[Any]] = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(each) for each in files], dtype=np.int64),
        "classes": np.asarray(classes, np.int64)[which][: len(files)],
    }
    whole_files.write_bytes(folder / FILE, safetensors.numpy.save(tensors))
    return True


def remove(folder: Path) -> None:
    """Leave a bundle without pictures.

    Raises:
        OSError: the file cannot be removed.
    """
    (folder / FILE).unlink(missing_ok=True)


def there(bundle: Bundle) -> bool:
    """Whether a bundle has such pictures. A weights file without a description may share its folder with others."""
    return (bundle.folder / DESCRIPTION).is_file() and (bundle.folder / FILE).is_file()


def read(bundle: Bundle) -> CalibrationPictures | None:
    """The pictures in the folder of a bundle; None where there are none.

    Raises:
        BundleError: they cannot be read, or do not belong to the bundle.
    """
    if not there(bundle):
        return None
    path = bundle.folder / FILE
    try:
        data = bounded_files.read(bounded_files.inside(bundle.folder, FILE), _FILE_BYTES)
        tensors = safetensors.numpy.load(data)
        files = _split(tensors["jpeg"], tensors["ends"])
        classes = _checked(tensors["classes"], len(files), len(bundle.labels))
        pixels = np.stack([_decoded(each, bundle.recipe) for each in files])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError, RefusedImageError) as error:
        raise BundleError(
            f"{path} has no valid pictures: {error}. Copy the bundle again, or write them again: python -m "
            "glimpse.models calibrate"
        ) from error
    return CalibrationPictures(pixels, classes, hashlib.sha256(data).hexdigest())


def _encoded(pixels: NDArray[np.uint8]) -> list[bytes]:
    """As JPEG files in the best quality in which all fit, or as many as fit in the last one."""
    files: list[bytes] = []
    for quality in _QUALITIES:
        files = [_jpeg(each, quality) for each in pixels]
        if sum(map(len, files)) <= _BYTES:
            return files
    fits = int(np.searchsorted(np.cumsum([len(each) for each in files]), _BYTES, side="right"))
    return files[:fits]


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "jpeg", quality=quality)
    return file.getvalue()


def _split(jpeg: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1 or ends.dtype != np.int64 or ends.ndim != 1:
        raise ValueError("jpeg must be a row of bytes, and ends one of int64")
    if not FEWEST <= len(ends) <= MOST:
        raise ValueError(f"{FEWEST} to {MOST} pictures are expected. Received: {len(ends)}")
    begins = [0, *(int(each) for each in ends[:-1])]
    spans = list(zip(begins, (int(each) for each in ends), strict=True))
    if not all(begin < end for begin, end in spans) or spans[-1][1] != len(jpeg):
        raise ValueError("the ends of the pictures must rise to the length of jpeg")
    return [jpeg[begin:end].tobytes() for begin, end in spans]


def _checked(classes: NDArray[np.int64], number: int, known: int) -> NDArray[np.int64]:
    if classes.dtype != np.int64 or classes.shape != (number,) or not ((classes >= UNKNOWN) & (classes < known)).all():
        raise ValueError(f"classes must be a class from 0 to {known - 1}, or {UNKNOWN}, for each picture")
    return classes


def _decoded(data: bytes, recipe: Recipe) -> NDArray[np.uint8]:
    image = decode(data, OWN_FILES).image
    if image.size != (recipe.width, recipe.height):
        raise ValueError(
            f"a picture has {image.width} x {image.height} pixels, the network {recipe.width} x {recipe.height}"
        )
    pixels = np.asarray(image.convert("L" if recipe.depth == 1 else "RGB"), np.uint8)
    return host.whole(pixels.reshape(recipe.shape), recipe)


def of_images(images: Sequence[NDArray[np.uint8]], classes: Sequence[int], digest: str) -> CalibrationPictures:
    """Pictures that were read elsewhere."""
    return CalibrationPictures(np.stack([*images]), np.array(classes, np.int64), digest)
