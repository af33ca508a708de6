"""`python -m glimpse.models.train`: from labelled images to a bundle that the server loads."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse.models import bundle, standard
from glimpse.models.catalogue import find
from glimpse.models.plain import plain
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.options import MAX_HELD_OUT, parser, plan_of, reproducing
from glimpse.models.train.plan import Run, check_writable, claim, exclusive

if TYPE_CHECKING:
    from glimpse.models.train.data import Labelled
    from glimpse.models.train.export import Sets

_DESCRIPTION = """\
Train an architecture of the library on labelled images, and write a bundle that the server can load.

The images are the files .../class/image of a folder or a zip file. A checkpoint is kept after every epoch; to continue
an interrupted run, give the same command again. At the end a temperature is fitted to the held-out images, which
calibrates the probabilities, and OUT/bundle is written: weights, labels, recipe, model card and pictures.

KERAS_BACKEND chooses the framework that trains: tensorflow (the default), jax or torch."""

_MOST_HELD_OUT = 2500  # images; enough for a temperature, and to see the training go wrong

_SHOWN = 20  # of the folders without an image


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0; 1 where the images, an option or the output folder cannot be used; 130 when interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"glimpse.models.train: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("models.train: there is not enough memory. Use a smaller --size or --batch-size.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nmodels.train: interrupted. Give the same command again to continue after the last complete epoch.",
            file=sys.stderr,
        )
        return standard.INTERRUPTED
    return 0


def _run(options: argparse.Namespace) -> None:
    plan = plan_of(options)
    row = find(plan.architecture, plan.variant)
    out: Path = options.out or Path("runs") / plan.architecture
    height, width = options.size or row.input_shape[:2]
    recipe = Recipe(
        height=height, width=width, geometry=options.geometry, crop_share=options.crop_share, filter=options.filter
    )
    recipe = _scaled(recipe, options.mean, options.std)
    if options.hold_out is not None and not options.hold_out > 0:
        raise ValueError(
            f"--hold-out must be at least 1, because the temperature is fitted on these images. "
            f"Received: {options.hold_out}"
        )

    name = options.name or out.resolve().name
    # What the export would refuse has to be refused before hours of training.
    bundle.check(name, options.bundle_version, ())
    check_writable(out)
    for path in (options.data, options.test):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Give a folder or a zip file.")

    # Only now: Keras takes seconds to load, and a wrong option should say so at once.
    from glimpse.models.train import fit

    if options.export_only and not (out / fit.CHECKPOINT).exists():
        raise ValueError(f"{out} has no {fit.CHECKPOINT} to export. Train first, or give another --out.")
    recipe, splits = _read(options, recipe)
    run = Run(
        plan=plan,
        recipe=recipe,
        images=len(splits.training) + len(splits.held_out),
        hold_out=len(splits.held_out),
        labels=splits.training.labels,
    )
    with exclusive(out):
        claim(out, run, checkpoint=fit.CHECKPOINT, adopt=options.export_only)
        if options.export_only:
            model = fit.restored(plan, recipe, splits.training, out)
        else:
            model = fit.train(plan, recipe, splits.training, splits.held_out, out, stop_after=options.stop_after)

        from glimpse.models.train.export import Metadata, export

        metadata = Metadata(
            name=name,
            version=options.bundle_version,
            data=options.data_name or options.data.stem,
            note=options.data_note,
            training_note=options.training_note,
            dtype=options.weights_dtype,
            command=reproducing(options),
            test=str(options.test or ""),
        )
        made, measurement = export(model, run, splits, metadata, out)
    low, high = measurement.top1_interval
    print(plain(f"{made.name} {made.version}: top-1 {measurement.top1:.2%} ({low:.2%} to {high:.2%}) in {made.folder}"))


def _read(options: argparse.Namespace, recipe: Recipe) -> tuple[Recipe, DataSplits]:
    """The labelled images, and the recipe with the scaling that was given or else measured on the training images."""
    from glimpse.models.train import data
    from glimpse.models.train.export import DataSplits

    everything = data.read(options.data, recipe, skip_unreadable=options.skip_unreadable)
    _report_omissions(options.data, everything)
    _check_classes(options.data, everything.labels)
    count = min(MAX_HELD_OUT, math.ceil(len(everything) / 20)) if options.hold_out is None else options.hold_out
    training, held_out = data.hold_out(everything, count, options.seed)
    for label, count in zip(training.labels, data.per_class(training), strict=True):
        if not count:
            raise ValueError(
                f"All images of the class {label!r} would be held out. Add images to that class, or give a smaller "
                "--hold-out."
            )
    if options.mean is None or options.std is None:
        mean, std = data.statistics(training, needs_std=options.std is None)
        recipe = _scaled(recipe, options.mean or mean, options.std or std)
    test = None
    if options.test:
        test = data.read(options.test, recipe, training.labels, skip_unreadable=options.skip_unreadable)
        _report_omissions(options.test, test)
    print(
        f"{len(training)} training, {len(held_out)} held-out and {len(test) if test else 0} test images "
        f"of {len(training.labels)} classes; mean {recipe.mean}, std {recipe.std}"
    )
    return recipe, DataSplits(training=training, held_out=held_out, test=test, left_out=everything.left_out)


def _report_omissions(path: Path, images: LabelledImages) -> None:
    from glimpse.models.train import data

    if images.left_out:
        print(f"{path}: skipped: {data.summary(images.left_out)}", file=sys.stderr)
    if images.empty:
        names = ", ".join(map(repr, images.empty[:_SHOWN])) + (", ..." if len(images.empty) > _SHOWN else "")
        print(f"{path}: folders without a readable image, which become no class: {names}", file=sys.stderr)


def _scaled(recipe: Recipe, mean: Sequence[float] | None, std: Sequence[float] | None) -> Recipe:
    """The recipe with a scaling of three channels, where it is given."""
    if mean is not None:
        recipe = dataclasses.replace(recipe, mean=(mean[0], mean[1], mean[2]))
    if std is not None:
        recipe = dataclasses.replace(recipe, std=(std[0], std[1], std[2]))
    return recipe


def _check_classes(path: Path, labels: Sequence[str]) -> None:
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


def _own_options(options: argparse.Namespace) -> tuple[str, ...]:
    """The options that are neither the plan's nor the recipe's, as words, where they are not what is left out."""
    words = ["--data", str(options.data)]
    defaults = vars(parser().parse_args(["--data", "", "--architecture", ""]))
    for name in ("test", "out", "name", "bundle_version", "data_name", "data_note", "training_note", "weights_dtype"):
        if (value := getattr(options, name)) != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.skip_unreadable:
        words.append("--skip-unreadable")
    return tuple(words)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options express.

    Raises:
        ValueError: a value cannot be.
    """
    return Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m glimpse.models.train",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = {field.name: field.default for field in dataclasses.fields(Plan)}

    images = result.add_argument_group("images")
    images.add_argument("--data", type=Path, required=True, metavar="PATH", help="folder or zip file to train on")
    images.add_argument(
        "--test", type=Path, metavar="PATH", help="folder or zip file with test images for the model card"
    )
    images.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="number of images of --data kept out of training, for validation and calibration (default: a twentieth, "
        f"at most {_MOST_HELD_OUT})",
    )
    images.add_argument("--skip-unreadable", action="store_true", help="leave out unreadable images, and list them")
    images.add_argument(
        "--data-name", metavar="TEXT", help="name of the images on the model card (default: the name of the file)"
    )
    images.add_argument(
        "--data-note",
        metavar="MARKDOWN",
        default="Where these images come from and under which terms was not stated.",
        help="sentence on the model card about the images' origin and licence",
    )

    network = result.add_argument_group("network")
    network.add_argument("--architecture", required=True, metavar="NAME", help=f"one of {', '.join(architectures())}")
    network.add_argument("--variant", help="variant of the architecture (default: the first)")

    stem = result.add_argument_group("preprocessing (pre-stem)")
    stem.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="size of the network's input in pixels (default: the architecture's own)",
    )
    stem.add_argument(
        "--geometry",
        choices=get_args(Geometry),
        default="crop",
        help="how images are fitted to the input (default: %(default)s)",
    )
    stem.add_argument(
        "--crop-share",
        type=float,
        default=1.0,
        metavar="S",
        help="share of the resized short side that a centre crop keeps, 0 to 1 (default: %(default)s)",
    )
    stem.add_argument(
        "--filter", choices=get_args(Filter), default="bilinear", help="resampling filter (default: %(default)s)"
    )
    for name, what in (("mean", "mean that is subtracted from the"), ("std", "standard deviation that divides the")):
        stem.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{what} values 0 to 255, for each channel (default: that of the training images)",
        )

    schedule = result.add_argument_group("training")
    for name, kind, text in (
        ("epochs", int, "passes over the images; may be changed when a run is continued"),
        ("batch_size", int, "images per training step"),
        ("learning_rate", float, "highest learning rate, at the end of the warm-up"),
        ("warmup_epochs", float, "epochs of warm-up, until the highest learning rate"),
        ("restart_epochs", int, "further epochs after a warm restart of the learning rate; 0 means none"),
        ("restart_learning_rate", float, "learning rate at the restart, from which it falls to 0 again"),
        (
            "cutout",
            float,
            "side of the square that augmentation blanks out, as a share of the image's side; 0 means none",
        ),
        ("cutout_from", int, "epochs before cutout begins"),
        ("label_smoothing", float, "share of each target that is spread over all classes; 0 means none"),
        ("momentum", float, "Nesterov momentum of SGD"),
        ("weight_decay", float, "decoupled weight decay of the kernels"),
        ("precision", str, "Keras dtype policy for training, for example mixed_bfloat16"),
        ("seed", int, "random seed of initialisation, hold-out, order and augmentation"),
    ):
        schedule.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default[name], help=f"{text} (default: %(default)s)"
        )

    schedule.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="stop after this number of epochs; the same command continues from there",
    )

    outcome = result.add_argument_group("result")
    outcome.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/ARCHITECTURE)")
    outcome.add_argument("--name", help="name of the model, by which clients ask for it (default: the name of --out)")
    outcome.add_argument(
        "--bundle-version", default="1", metavar="V", help="version of the model (default: %(default)s)"
    )
    outcome.add_argument(
        "--training-note",
        metavar="MARKDOWN",
        default="",
        help="sentence on the model card about the training, for example that its options were changed",
    )
    outcome.add_argument(
        "--weights-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the stored weights; float16 halves the file, and is served as float32 (default: %(default)s)",
    )
    outcome.add_argument(
        "--export-only", action="store_true", help="write the bundle from the checkpoint in --out, without training"
    )
    return result


def _size(text: str) -> tuple[int, int]:
    try:
        height, _, width = text.lower().partition("x")
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, for example 32x32. Received: {text!r}") from None


if __name__ == "__main__":
    standard.run("glimpse.models.train", main, bars=True)
