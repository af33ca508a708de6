"""`python -m glimpse.models.evaluate`: measure a bundle on labelled images, and compare with its model card."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from glimpse.models import bundle, quiet, standard
from glimpse.models.bundle import Bundle
from glimpse.models.command_line import Parser
from glimpse.models.labels import indices

if TYPE_CHECKING:
    from glimpse.models.train.measure import Measurement
    from glimpse.models.train.multi_label.measure import LabelMeasurement


def evaluate(loaded: Bundle, data: Path, *, skip_unreadable: bool = False) -> Measurement:
    """Measure a bundle on the images of a folder or a zip file, in folders named after their classes.

    Args:
        loaded: the bundle.
        data: folder or zip file.
        skip_unreadable: skip images that cannot be read, and list them on the standard error.

    Raises:
        BundleError: the bundle cannot be used.
        ValueError: the images cannot be used.
        FileNotFoundError: `data` does not exist.
    """
    from glimpse.models import serving
    from glimpse.models.decoding.formats import SUFFIXES
    from glimpse.models.train import files
    from glimpse.models.train.data import read, summary
    from glimpse.models.train.measure import measure

    with files.open_images(data, SUFFIXES) as found:
        # What is in no folder is refused in reading.
        names = [PurePosixPath(file.name).parent.name for file in found if "/" in file.name]
    index = indices(names, loaded.labels, data=data, model=loaded.name)  # before any image is decoded
    images = read(
        data,
        loaded.recipe,
        [label.label for label in loaded.labels],
        indices=index,
        skip_unreadable=skip_unreadable,
    )
    if images.left_out:
        print(f"{data}: skipped: {summary(images.left_out)}", file=sys.stderr)
    network = serving.logits_model(serving.load_bundle(loaded), loaded.recipe)
    return measure(serving.logits(network, images.pixels), images.classes, loaded.temperature)


def evaluate_labels(loaded: Bundle, data: Path, labels: Path, *, skip_unreadable: bool = False) -> LabelMeasurement:
    """Measure a multi-label bundle on the images of a folder or a zip file, with a table of their labels.

    Args:
        loaded: the bundle.
        data: folder or zip file.
        labels: a CSV of labels, see `models.train.multi_label.table`.
        skip_unreadable: skip images that cannot be read, and list them on the standard error.

    Raises:
        BundleError: the bundle cannot be used.
        ValueError: the images or the table cannot be used.
        OSError: one of them cannot be read.
    """
    from glimpse.models import serving
    from glimpse.models.train.data import summary
    from glimpse.models.train.multi_label import data as labelled
    from glimpse.models.train.multi_label.measure import measure
    from glimpse.models.train.multi_label.table import read

    table = read(labels).ordered([label.label for label in loaded.labels])
    images = labelled.read(data, table, loaded.recipe, skip_unreadable=skip_unreadable)
    if images.left_out:
        print(f"{data}: skipped: {summary(images.left_out)}", file=sys.stderr)
    network = serving.logits_model(serving.load_bundle(loaded), loaded.recipe)
    return measure(serving.logits(network, images.pixels), images.classes, loaded.head)


def _check_labels(loaded: Bundle, labels: Path | None) -> None:
    if loaded.head.exclusive and labels is not None:
        raise ValueError(
            f"{loaded.name} is no multi-label model. Leave --labels out, and give images in folders named by class."
        )
    if not loaded.head.exclusive and labels is None:
        raise ValueError(f"{loaded.name} is a multi-label model. Give the labels of the images with --labels CSV.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 1 where the bundle or the images cannot be used.
    """
    parser = Parser(
        prog="python -m glimpse.models.evaluate",
        description="Measure a bundle on labelled images: accuracy, negative log-likelihood, calibration error and "
        "confusion matrix, as in its model card. A folder may be named by the label of its class, by its id or by "
        "a synonym.",
        epilog="example: python -m glimpse.models.evaluate --bundle runs/photos/bundle --data test.zip",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="folder of the bundle (default: the CIFAR-10 model, which is part of the package)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder or zip file of images, with one folder for each class: .../CLASS/IMAGE",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="of a multi-label model: which labels each image of --data shows, as for training",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="skip images that cannot be read, and list them (default: refuse to measure)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    try:
        loaded = bundle.read(options.bundle or bundle.EMBEDDED_DEFAULT)
        _check_labels(loaded, options.labels)
        quiet.load_keras()
        if options.labels is not None:
            of_labels = evaluate_labels(loaded, options.data, options.labels, skip_unreadable=options.skip_unreadable)
            print(_labels_as_json(loaded, of_labels) if options.json else _labels_as_text(loaded, of_labels))
            return 0
        measurement = evaluate(loaded, options.data, skip_unreadable=options.skip_unreadable)
    except (ValueError, OSError) as error:
        print(f"glimpse.models.evaluate: {_told(error, options.bundle)}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "glimpse.models.evaluate: there is not enough memory for the images. Give fewer of them.", file=sys.stderr
        )
        return 1
    print(_as_json(loaded, measurement) if options.json else _as_text(loaded, measurement))
    return 0


def _told(error: Exception, folder: Path | None) -> str:
    """An error; one of images that do not fit the default bundle says so, which the user may not have meant."""
    if folder is not None or not isinstance(error, ValueError) or isinstance(error, bundle.BundleError):
        return str(error)
    name = bundle.read(bundle.EMBEDDED_DEFAULT).name
    return f"{str(error).rstrip('.')}. The model is {name}, the default. Name yours with --bundle."


def _as_json(loaded: Bundle, measurement: Measurement) -> str:
    return json.dumps(
        {
            "name": loaded.name,
            "version": loaded.version,
            "architecture": loaded.architecture,
            "variant": loaded.variant,
            "options": dict(loaded.options),
            "weights_digest": loaded.weights_digest,
            "temperature": loaded.temperature,
            "metrics": measurement.metrics(),
            "claimed": dict(loaded.metrics),
            "labels": [label.label for label in loaded.labels],
            "confusion": measurement.confusion.tolist(),
        },
        indent=2,
    )


def _labels_as_json(loaded: Bundle, found: LabelMeasurement) -> str:
    each = {name: getattr(found, name) for name in ("shown", "average_precision", "precision", "recall", "f1")}
    return json.dumps(
        {
            "name": loaded.name,
            "version": loaded.version,
            "weights_digest": loaded.weights_digest,
            "metrics": found.metrics(),
            "claimed": dict(loaded.metrics),
            "labels": [
                # What no image shows has no such number.
                {"label": label.label, "threshold": loaded.head.thresholds[place]}
                | {name: float(values[place]) for name, values in each.items() if values[place] == values[place]}
                for place, label in enumerate(loaded.labels)
            ],
        },
        indent=2,
    )


def _labels_as_text(loaded: Bundle, found: LabelMeasurement) -> str:
    figures = found.metrics()
    lines = [
        f"{loaded.name} {loaded.version} ({loaded.weights_digest})",
        f"images                  {found.images}",
        f"mean average precision  {found.mean_average_precision:.2%}",
        f"F1                      {found.f1_micro:.2%} of all labels together, {found.f1_macro:.2%} mean of the labels",
        f"all labels right        {found.subset_accuracy:.2%} of the images",
        f"cross-entropy           {figures['bce_uncalibrated']:.4f} uncalibrated, {figures['bce']:.4f} calibrated",
        "",
    ]
    column = max(5, *(len(label.label) for label in loaded.labels)) + 2
    names = ("images", "AP", "precision", "recall", "F1", "threshold")
    lines.append(f"{'label':<{column}}" + "".join(f"{name:>11}" for name in names))
    shares = (found.average_precision, found.precision, found.recall, found.f1)
    for place, label in enumerate(loaded.labels):
        cells = [f"{values[place]:.2%}" for values in shares]
        told = (f"{found.shown[place]}", *cells, f"{loaded.head.thresholds[place]:.3g}")
        lines.append(f"{label.label:<{column}}" + "".join(f"{cell:>11}" for cell in told))
    return "\n".join(lines)


def _network(loaded: Bundle) -> str:
    options = "".join(f", {name} {json.dumps(value)}" for name, value in loaded.options.items())
    return f"{loaded.architecture} ({loaded.variant}){options}"


def _as_text(loaded: Bundle, measurement: Measurement) -> str:
    low, high = measurement.top1_interval
    lines = [
        f"{loaded.name} {loaded.version} ({loaded.weights_digest})",
        *([f"architecture       {_network(loaded)}"] if loaded.architecture else []),
        f"images             {measurement.images}",
        f"top-1              {measurement.top1:.2%}, 95% interval {low:.2%} to {high:.2%}",
    ]
    if measurement.top5 is not None:
        lines.append(f"top-5              {measurement.top5:.2%}")
    before, after = measurement.reliability_uncalibrated, measurement.reliability
    lines += [
        f"NLL                {measurement.nll_uncalibrated:.4f} uncalibrated, {measurement.nll:.4f} calibrated",
        f"calibration error  {before.error:.2%} uncalibrated, {after.error:.2%} calibrated",
        "",
        "confusion matrix, true class (rows) by predicted class (columns):",
    ]
    names = [label.label for label in loaded.labels]
    counts = measurement.confusion
    column = max(5, *(len(name) + 1 for name in names))
    lines.append(" " * column + "".join(f"{name:>{column}}" for name in names))
    for name, row in zip(names, counts, strict=True):
        lines.append(f"{name:<{column}}" + "".join(f"{count:>{column}}" for count in row))
    return "\n".join(lines)


if __name__ == "__main__":
    standard.run("glimpse.models.evaluate", main)
