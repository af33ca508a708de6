"""The tables of labels that a command names, checked before Keras is loaded. Keras is not imported here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.train import files
from glimpse.models.train.multi_label import table
from glimpse.models.train.multi_label.table import LabelTable


@dataclass(frozen=True, slots=True)
class Tables:
    """Which images show which labels."""

    training: LabelTable
    test: LabelTable | None  # with the labels of the training, in their order


def tables_of(options: argparse.Namespace) -> Tables | None:
    """The tables of ``--labels`` and ``--test-labels``; None: images are in folders named by their class.

    Raises:
        OSError: one cannot be read.
        ValueError: one is not valid, is not of these images, or is missing.
    """
    if options.labels is None:
        if options.test_labels is not None:
            raise ValueError("--test-labels has an effect only together with --labels.")
        return None
    if options.samples is not None:
        raise ValueError(
            "--samples cannot be used together with --labels: feedback names one class of an image, not all of its "
            "labels."
        )
    if (options.test is None) != (options.test_labels is None):
        raise ValueError("--test and --test-labels belong together where --labels is given: give both, or neither.")
    training = table.read(options.labels)
    _check_files(training, options.data)
    table.check(training)
    test = None
    if options.test_labels is not None:
        test = table.read(options.test_labels).ordered(training.labels)
        _check_files(test, options.test)
    return Tables(training, test)


def _check_files(found: LabelTable, path: Path) -> None:
    with files.open_images(path, SUFFIXES) as images:
        table.check_files(found, path, [image.name for image in images])
