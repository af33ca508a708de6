"""`python -m glimpse.models calibrate`: fit any weights' temperature and threshold of novelty on labelled images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from glimpse.models import calibration_pictures, drift
from glimpse.models.bundle import Bundle
from glimpse.models.calibration import computing, fitting, report, writing
from glimpse.models.calibration.computing import Computed, Foreign
from glimpse.models.calibration.fitting import Calibration
from glimpse.models.calibration.inner import Embedded, Inner
from glimpse.models.commands import inner_layer
from glimpse.models.commands.help import Help, examples
from glimpse.models.commands.log import logged
from glimpse.models.commands.shown import Shown
from glimpse.models.comparison import labelled, names, plot
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.labels import some
from glimpse.models.novelty import feature_distance, novelty
from glimpse.models.train import files
from glimpse.models.train.reading import network_input

_TRAINED = "/trained on"  # name of a set that no folder can have
_MOST_TRAINED = 12_500  # images; a distance changes little with more


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    command = commands.add_parser(
        "calibrate",
        help="fit temperature and threshold of novelty on labelled images, for any weights",
        description="Make the probabilities of a model mean what they say, and have it know what it does not know. On "
        "half of the images, which it was not trained on, this fits the temperature, by which logits are divided "
        "before the softmax, and the threshold of novelty, above which an image shows none of the classes and which "
        "95% of the images pass. The other half measures both: top-1, expected calibration error (ECE) and negative "
        "log-likelihood (NLL) before and after, the share of the images that is rejected, and, with --foreign, the "
        "share of foreign images that is caught. The model computes as a server with the same GLIMPSE_* settings would "
        "have it. The bundle also gets a reference of drift, with which a server compares what it sees, "
        "and up to 300 of the images, with which it may make the network int8, unless --without-pictures is given.",
        epilog=examples(
            "calibrate --data photos --foreign other-photos --out runs/calibrated imagenet",
            "calibrate --data photos --plot reliability.svg runs/mine/bundle",
            "calibrate --data photos weights/model.onnx",
        ),
        formatter_class=Help,
    )
    command.add_argument(
        "name",
        metavar="NAME",
        help="the model: a bundle's folder, a tag (imagenet), an architecture with its default weights (resnet50) or "
        "with others (resnet50:imagenet_v2, resnet50:weights/mine.safetensors), a weights file or a graph",
    )
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder or zip file with a folder for each class, named by its label or class id: .../CLASS/IMAGE; or a "
        "folder of images (or of one zip file) with a labels.txt: a line for each image with its name and its class, "
        "which may be an index, too. Some hundreds of images like those that will be sent, none of which the model was "
        "trained on",
    )
    command.add_argument(
        "--foreign",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="folder or zip file of images that show none of the classes; may be given again. The score that tells "
        "them best is chosen. Folders in it that are named like a class of the model are left out",
    )
    command.add_argument(
        "--foreign-test",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="the same, of images that are measured alone: no score is chosen by them or fitted on them, so that they "
        "say how well other kinds are told than those of --foreign; may be given again",
    )
    command.add_argument(
        "--score",
        choices=sorted(novelty.NAMES),
        default="",
        help=f"the score of novelty (default: the best with --foreign of those that need the logits alone, else "
        f"{novelty.DEFAULT_SCORE}). {novelty.FEATURE_DISTANCE} also looks at an inner layer of the network, which "
        "tells textures, drawings and noise from photographs; it is for networks of the library and Keras models, and "
        f"takes some hundreds of images more. {novelty.LOGISTIC} is fitted on the images of --foreign, and also looks "
        "at the network's embedding; with --layer or --trained-on it has that distance, too",
    )
    command.add_argument(
        "--layer",
        default="",
        metavar="NAME",
        help=f"the inner layer of --score {novelty.FEATURE_DISTANCE} or {novelty.LOGISTIC}, by its name in the "
        f"network, with up to {feature_distance.MOST_FEATURES // 2} channels (default: the last one before the "
        "resolution is reduced for the last time)",
    )
    command.add_argument(
        "--trained-on",
        type=Path,
        metavar="PATH",
        help=f"folder or zip file of images that the network was trained on, of which up to {_MOST_TRAINED:,} are "
        f"used: to them --score {novelty.FEATURE_DISTANCE} or {novelty.LOGISTIC} measures the distance (default: to "
        "some of those of --data)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="BUNDLE",
        help="make a bundle of the calibrated model in this new folder (default: change the bundle itself; of a graph, "
        "write the calibration beside it)",
    )
    command.add_argument(
        "--keep-temperature", action="store_true", help="leave the temperature as it is, and fit the threshold alone"
    )
    command.add_argument(
        "--without-pictures",
        action="store_true",
        help="put none of the images into the bundle, and remove those that it has: a server then makes it int8 only "
        "if told to",
    )
    command.add_argument("--dry-run", action="store_true", help="measure and print, and write nothing")
    command.add_argument(
        "--skip-unreadable", action="store_true", help="skip images that cannot be read (default: refuse to calibrate)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw the reliability diagram, before and after, into this .png, .svg or .pdf file; needs the "
        "packages of training",
    )
    command.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    if options.plot:
        plot.check(options.plot)
    data = labelled.find(options.data)
    with logged(), Shown() as shown:
        bundle = names.resolve(options.name)
        if not bundle.head.exclusive:
            raise ValueError(
                f"{options.name} is a multi-label model: temperatures, offsets and thresholds of its labels are fitted "
                "by python -m glimpse.models.train --labels, and calibrate fits one temperature for classes that "
                "exclude each other."
            )
        if not options.dry_run:
            writing.check(bundle, options.out)
        labelled.indices(data, bundle.labels, options.name)  # before anything is computed
        if (images := len(data.files)) < fitting.FEWEST:
            raise ValueError(
                f"{data.path} has {images:,} image{'s' * (images != 1)}. Calibrating needs at least {fitting.FEWEST}, "
                "of which one half is fitted on and the other measured; some hundreds make it reliable."
            )
        layer = inner_layer.chosen(options, bundle)
        trained = None if options.trained_on is None else computing.find_trained(options.trained_on, _MOST_TRAINED)
        foreign = _foreign([*options.foreign, *options.foreign_test], bundle)
        measured_only = [each.name for each in foreign[len(options.foreign) :]]
        known, others, before = computing.compute(
            options.name,
            bundle,
            data,
            [*foreign, *([] if trained is None else [replace(trained, name=_TRAINED)])],
            shown,
            layer=layer,
            embedding=options.score == novelty.LOGISTIC,
            skip_unreadable=options.skip_unreadable,
        )
    near = others.pop(_TRAINED, None)
    for skipped in (known, *others.values()):
        if skipped.left_out:
            print(f"skipped: {some([name for name, _ in skipped.left_out])}", file=sys.stderr)
    found = fitting.calibrate(
        known.logits,
        known.classes,
        {name: each.logits for name, each in others.items()},
        before=before,
        score=options.score,
        keep=options.keep_temperature,
        inner=_inner(layer, known, others, near),
        measured_only=measured_only,
    )
    if options.json:
        print(json.dumps(report.as_json(found, before=before), indent=1))
    else:
        print(report.as_text(found, before=before))
    aside = sys.stderr if options.json else sys.stdout
    if options.plot:
        from glimpse.models.train import plots

        plots.reliability(found.before.reliability, found.after.reliability, options.plot, titles=("before", "after"))
        print(f"Drawn in {options.plot}.", file=aside)
    if not options.dry_run:
        print(_written(options, bundle, found, before, known), file=aside)


def _inner(
    layer: str, known: Computed, others: Mapping[str, Computed], trained: Computed | None
) -> Inner | Embedded | None:
    inner = None
    if layer and known.statistics is not None:
        foreign = {name: each.statistics for name, each in others.items() if each.statistics is not None}
        near = None if trained is None else trained.statistics
        inner = Inner(layer=layer, known=known.statistics, foreign=foreign, trained=near)
    if known.embedding is None:
        return inner
    embeddings = {name: each.embedding for name, each in others.items() if each.embedding is not None}
    return Embedded(known=known.embedding, foreign=embeddings, inner=inner)


def _with_pictures(options: argparse.Namespace, bundle: Bundle, target: Path) -> None:
    """Put pictures into the folder of a bundle, or remove those that it has, as the options say."""
    if options.without_pictures:
        calibration_pictures.remove(target)
    elif not _pictures(options, bundle, target):
        print(f"Without pictures for int8, which need {calibration_pictures.FEWEST} images.", file=sys.stderr)


def _pictures(options: argparse.Namespace, bundle: Bundle, target: Path) -> bool:
    """Put some of the images into the bundle, with which a server may make it int8; whether there were enough."""
    data = labelled.find(options.data)
    index = labelled.indices(data, bundle.labels, options.name)
    pixels, classes = [], []
    with files.open_images(data.images, SUFFIXES) as images:
        by_name = {image.name: image for image in images}
        for number in calibration_pictures.chosen(len(data.files)):
            name, label = data.files[number]
            try:
                pixels.append(network_input(by_name[name].read(), bundle.recipe))
            except files.UnreadableError:  # which has been told, or the command has ended
                continue
            classes.append(index[label])
    if not pixels:
        return False
    return calibration_pictures.write(target, np.stack(pixels), np.array(classes, np.int64), bundle.recipe)


def _foreign(paths: list[Path], bundle: Bundle) -> list[Foreign]:
    found = [computing.find_foreign(path, bundle.labels) for path in paths]
    named = [each.name for each in found]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"--foreign has several folders of one name: {', '.join(twice)}. Name them apart.")
    for each in found:
        if each.known:
            print(f"{each.path}: left out, because they are classes of the model: {some(each.known)}", file=sys.stderr)
    return found


def _written(options: argparse.Namespace, bundle: Bundle, found: Calibration, before: float, known: Computed) -> str:
    reference = None
    if len(known.classes) >= drift.FEWEST_IMAGES:
        reference = fitting.reference(known.logits, known.figures, found.temperature, found.threshold, known.outputs)
    target = writing.write(
        bundle,
        options.out,
        temperature=found.temperature,
        novelty=found.threshold,
        drift=reference,
        first=partial(_with_pictures, options, bundle),
    )
    if target.is_dir():
        section = report.as_markdown(found, before=before, data=options.data.name)
        writing.write_card(target, bundle.name, section)
    without = "" if reference else f" Without a reference of drift, which needs {drift.FEWEST_IMAGES} images."
    return f"Written to {target}.{without}"
