"""What is checked of labelled images, and said of them, before any training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from glimpse.models import bundle
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.labels import some
from glimpse.models.train import files, samples

if TYPE_CHECKING:
    from glimpse.models.train.data import LabelledImages

_SHOWN = 20  # of the folders without an image


def report_omissions(path: Path, images: LabelledImages) -> None:
    """Say which images were skipped, and which folders became no class."""
    from glimpse.models.train import data

    if images.left_out:
        print(f"{path}: skipped: {data.summary(images.left_out)}", file=sys.stderr)  # noqa: T201 - a program's
    if images.empty:
        names = ", ".join(map(repr, images.empty[:_SHOWN])) + (", ..." if len(images.empty) > _SHOWN else "")
        print(  # noqa: T201 - a program's
            f"{path}: folders without a readable image, which become no class: {names}", file=sys.stderr
        )


def report_unlabelled(*paths: Path | None) -> None:
    """Say how many samples of a server have no true class, and so are not trained on."""
    for path in paths:
        if path is not None and samples.is_samples(path) and (count := samples.unlabelled(path)):
            print(f"{path}: {count:,} samples have no true class yet and are left out.", file=sys.stderr)  # noqa: T201 - a program's


def report_new_classes(data: Path, besides: Path | None) -> None:
    """Say which classes come from further images alone: new ones, and those that are spelt in another way.

    Args:
        data: folder or zip file of the images to train on.
        besides: that of the further ones; None: there are none.

    Raises:
        OSError, ValueError: as of `models.train.files.open_images`.
    """
    if besides is None:
        return
    known, others = map(_class_names, (data, besides))
    if new := sorted(others - known):
        print(  # noqa: T201 - a program's
            f"{besides}: these classes, of which {data} has no image, become classes of the model, too: {some(new)}.",
            file=sys.stderr,
        )


def _class_names(path: Path) -> set[str]:
    with files.open_images(path, SUFFIXES) as images:
        return {PurePosixPath(image.name).parent.name for image in images}


def check_classes(path: Path, labels: Sequence[str]) -> None:
    """Refuse labels that are not valid in a bundle, and a single class.

    Raises:
        ValueError: the classes cannot be trained on.
    """
    bundle.check("classes", "1", [bundle.ClassLabel(label) for label in labels])
    if len(labels) < 2:
        raise ValueError(
            f"{path} has only one class, {labels[0]!r}; training needs at least two. Put the images of each class into "
            "a folder of its name."
        )


def check_hold_out(count: int | None) -> None:
    """Refuse to hold no image out.

    Raises:
        ValueError: `count` is not positive.
    """
    if count is not None and not count > 0:
        raise ValueError(
            f"--hold-out must be at least 1, because the temperature is fitted on these images. Received: {count}"
        )


def check_stop_after(count: int | None) -> None:
    """Refuse to stop before the first epoch, of which a bundle of untrained weights would be made.

    Raises:
        ValueError: `count` is not positive.
    """
    if count is not None and not count > 0:
        raise ValueError(f"--stop-after must be at least 1 epoch. Received: {count}")


def check_paths(*paths: Path | None) -> None:
    """Refuse folders and zip files that do not exist.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    for path in paths:
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Give a folder or a zip file.")
