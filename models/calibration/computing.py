"""A model's logits of images of its classes and of foreign ones, from a process that loads it as a server does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from glimpse.models import drift
from glimpse.models import labels as classes
from glimpse.models.bundle import Bundle
from glimpse.models.comparison import labelled, names
from glimpse.models.comparison.compare import Progress
from glimpse.models.comparison.labelled import LabelledFiles
from glimpse.models.comparison.process import MeasuringProcess
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.labels import ClassLabel
from glimpse.models.outputs import EMBEDDING, FEATURE_STATISTICS, LOGITS
from glimpse.models.train import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Images that show none of the classes.

    Attributes:
        name: of their set, for people.
        path: folder or zip file.
        files: their names in it.
        known: names of folders that were left out, because the model has a class of that name.
    """

    name: str
    path: Path
    files: tuple[str, ...]
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What a model gives for a set of images.

    Attributes:
        logits: ``[N, classes]``.
        classes: int64 ``[N]``, the true ones; 0 of foreign images.
        figures: ``[N]``, by the names of `models.drift.OF_IMAGES`.
        left_out: name and reason of each image that could not be read.
        statistics: ``[N, D]``, of an inner layer; None: none was measured.
        embedding: ``[N, D]``; None: it was not asked for.
    """

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    figures: Mapping[str, NDArray[np.float64]]
    left_out: tuple[tuple[str, str], ...]
    statistics: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None

    @property
    def outputs(self) -> dict[str, NDArray[np.float32]]:
        """What a score of novelty is computed from, by the names of the outputs."""
        found = {LOGITS: self.logits, FEATURE_STATISTICS: self.statistics, EMBEDDING: self.embedding}
        return {name: values for name, values in found.items() if values is not None}


def find_foreign(path: Path, labels: Sequence[ClassLabel]) -> Foreign:
    """The images of a folder or a zip file, without those in folders that are named like a class of the model.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: there are none.
    """
    with files.open_images(path, SUFFIXES) as images:
        found = [image.name for image in images]
    folders = {PurePosixPath(name).parent.name for name in found if "/" in name}
    tables = classes.by_name(labels)
    known = {
        # A name that several classes share is known, too, although it does not tell which of them is meant.
        folder
        for folder in folders
        if any(key in table for table in tables for key in (folder, classes.plain(folder)))
    }
    kept = tuple(name for name in found if PurePosixPath(name).parent.name not in known)
    if not kept:
        why = f" but those of the model's own classes: {classes.some(sorted(known))}" if known else ""
        raise ValueError(
            f"{path} has no images{why}. --foreign must name a folder or zip file with images that show none of the "
            "model's classes."
        )
    return Foreign(name=path.stem or str(path), path=path, files=kept, known=tuple(sorted(known)))


def find_trained(path: Path, most: int) -> Foreign:
    """Images that a network was trained on, whatever they show: those of a folder or a zip file.

    Args:
        path: of the folder or the zip file.
        most: images; of more, so many are taken at random, the same each time.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: there are none.
    """
    with files.open_images(path, SUFFIXES) as images:
        found = sorted(image.name for image in images)
    if not found:
        raise ValueError(f"{path} has no images. --trained-on must name a folder or zip file with images.")
    some = np.sort(np.random.default_rng(0).permutation(len(found))[:most])
    return Foreign(name=str(path), path=path, files=tuple(found[number] for number in some))


def compute(
    name: str,
    bundle: Bundle,
    data: LabelledFiles,
    foreign: Sequence[Foreign],
    progress: Progress,
    *,
    layer: str = "",
    embedding: bool = False,
    skip_unreadable: bool = False,
) -> tuple[Computed, dict[str, Computed], float]:
    """Load a model as a server does, and have it classify all images.

    Args:
        name: of the model, see `models.comparison.names`.
        bundle: that it stands for.
        data: images of its classes.
        foreign: images that show none of them.
        progress: told what is going on.
        layer: an inner one of the network, whose statistics are computed, too; empty: none.
        embedding: whether the embeddings are.
        skip_unreadable: leave out images that cannot be read, instead of ending.

    Returns:
        What it gives for the images of the classes; for the foreign ones, by the name of their set; and the
        temperature that the model has.

    Raises:
        ValueError, OSError: the model or an image cannot be used; the message says which.
    """
    index = labelled.indices(data, bundle.labels, name)
    source = names.source(name)
    sets = [
        (str(data.path), data.images, [(file, index[label]) for file, label in data.files]),
        *((each.name, each.path, [(file, 0) for file in each.files]) for each in foreign),
    ]
    found: list[Computed] = []
    temperature = 1.0
    with MeasuringProcess(name) as process, tempfile.TemporaryDirectory(prefix="glimpse-") as folder:
        with progress.step(f"{name}: loading", 0):
            process.ask("load", weights=source.weights, architecture=source.architecture, layer=layer)
        for number, (title, images, wanted) in enumerate(sets):
            into = Path(folder, f"{number}.npz")
            with progress.step(f"{title}: classifying {len(wanted):,} images", len(wanted)) as report:
                answer = process.ask(
                    "logits",
                    progress=report,
                    images=str(images.absolute()),
                    files=wanted,
                    skip_unreadable=skip_unreadable,
                    into=str(into),
                    embedding=embedding,
                )
            temperature = answer["temperature"]
            with np.load(into, allow_pickle=False) as arrays:
                found.append(
                    Computed(
                        logits=arrays["logits"],
                        classes=arrays["classes"],
                        figures={each: arrays[each] for each in drift.OF_IMAGES},
                        left_out=tuple((file, reason) for file, reason in answer["left_out"]),
                        statistics=arrays[FEATURE_STATISTICS] if layer else None,
                        embedding=arrays[EMBEDDING] if embedding else None,
                    )
                )
            into.unlink()
    return found[0], {each.name: computed for each, computed in zip(foreign, found[1:], strict=True)}, temperature
