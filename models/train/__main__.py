"""`python -m glimpse.models.train`: from labelled images to a bundle that the server loads."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from glimpse.models import bundle, standard
from glimpse.models.catalogue import architectures, find
from glimpse.models.plain import plain
from glimpse.models.prestem.recipe import Filter, Geometry, Recipe
from glimpse.models.train.plan import Plan, Run, alone, check_writable, claim

if TYPE_CHECKING:
    from glimpse.models.train.data import Labelled
    from glimpse.models.train.export import Sets

_DESCRIPTION = """\
Train an architecture of the library on labelled images and write a bundle that the server loads.

The images are the .../class/image files of a folder or a zip. A checkpoint is kept after every epoch: run the same
command again to go on from it. At the end a temperature is fitted on the held-out images and OUT/bundle is written:
weights, labels, model card and pictures.

Keras' backend decides where it runs: KERAS_BACKEND=tensorflow, jax or torch."""

_MOST_HELD_OUT = 2500  # images; enough for a temperature, and to see the training go wrong

_SHOWN = 20  # of the folders without an image

_EXAMPLE = """\
example:
  python -m glimpse.models.train --data train.zip --test test.zip --architecture se_resnet20"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, 1 when the input or the folder is at fault, 130 when interrupted.
    """
    options = parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"glimpse.models.train: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("glimpse.models.train: memory does not suffice. Give a smaller --size or --batch-size.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nmodels.train: interrupted; the same command goes on from the last epoch that was whole, if one was.",
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
        raise ValueError(f"--hold-out must be positive, to fit the temperature on. Received: {options.hold_out}")

    name = options.name or out.resolve().name
    # What the export would refuse is refused before hours of training.
    bundle.check(name, options.bundle_version, ())
    check_writable(out)
    for path in (options.data, options.test):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path} is not there. Give a folder or a zip file.")

    # Only now: Keras takes seconds to load, and a wrong option should say so at once.
    from glimpse.models.train import fit

    if options.export_only and not (out / fit.CHECKPOINT).exists():
        raise ValueError(f"{out} holds no {fit.CHECKPOINT}. Train first.")
    recipe, sets = _read(options, recipe)
    run = Run(
        plan=plan,
        recipe=recipe,
        images=len(sets.training) + len(sets.held_out),
        hold_out=len(sets.held_out),
        labels=sets.training.labels,
    )
    with alone(out):
        claim(out, run, checkpoint=fit.CHECKPOINT, adopt=options.export_only)
        if options.export_only:
            model = fit.restored(plan, recipe, sets.training, out)
        else:
            model = fit.train(plan, recipe, sets.training, sets.held_out, out, stop_after=options.stop_after)

        from glimpse.models.train.export import Identity, export

        identity = Identity(
            name=name,
            version=options.bundle_version,
            data=options.data_name or options.data.stem,
            note=options.data_note,
            training_note=options.training_note,
            dtype=options.weights_dtype,
            command=_own_options(options),
            test=str(options.test or ""),
        )
        made, measurement = export(model, run, sets, identity, out)
    low, high = measurement.top1_interval
    print(plain(f"{made.name} {made.version}: top-1 {measurement.top1:.2%} ({low:.2%} to {high:.2%}) in {made.folder}"))


def _read(options: argparse.Namespace, recipe: Recipe) -> tuple[Recipe, Sets]:
    """The labelled images, and the recipe with the scaling that was given or else belongs to the training images."""
    from glimpse.models.train import data
    from glimpse.models.train.export import Sets

    everything = data.read(options.data, recipe, skip_unreadable=options.skip_unreadable)
    _tell_what_is_missing(options.data, everything)
    _check_classes(options.data, everything.labels)
    count = min(_MOST_HELD_OUT, math.ceil(len(everything) / 20)) if options.hold_out is None else options.hold_out
    training, held_out = data.hold_out(everything, count, options.seed)
    for label, count in zip(training.labels, data.per_class(training), strict=True):
        if not count:
            raise ValueError(
                f"All images of the class {label!r} would be held out. Give it more, or --hold-out a smaller number."
            )
    if options.mean is None or options.std is None:
        mean, std = data.statistics(training, needs_std=options.std is None)
        recipe = _scaled(recipe, options.mean or mean, options.std or std)
    test = None
    if options.test:
        test = data.read(options.test, recipe, training.labels, skip_unreadable=options.skip_unreadable)
        _tell_what_is_missing(options.test, test)
    print(
        f"{len(training)} training, {len(held_out)} held-out and {len(test) if test else 0} test images "
        f"of {len(training.labels)} classes; mean {recipe.mean}, std {recipe.std}"
    )
    return recipe, Sets(training=training, held_out=held_out, test=test, left_out=everything.left_out)


def _tell_what_is_missing(path: Path, images: Labelled) -> None:
    from glimpse.models.train import data

    if images.left_out:
        print(f"{path}: left out: {data.several(images.left_out)}", file=sys.stderr)
    if images.empty:
        names = ", ".join(map(repr, images.empty[:_SHOWN])) + (", ..." if len(images.empty) > _SHOWN else "")
        print(f"{path}: no image that can be read, and so no class: {names}", file=sys.stderr)


def _scaled(recipe: Recipe, mean: Sequence[float] | None, std: Sequence[float] | None) -> Recipe:
    """The recipe with a scaling of three channels, where it is given."""
    if mean is not None:
        recipe = dataclasses.replace(recipe, mean=(mean[0], mean[1], mean[2]))
    if std is not None:
        recipe = dataclasses.replace(recipe, std=(std[0], std[1], std[2]))
    return recipe


def _check_classes(path: Path, labels: Sequence[str]) -> None:
    """Refuse classes that no bundle can name, and those that are nothing to tell apart.

    Raises:
        ValueError: they cannot be trained on.
    """
    bundle.check("classes", "1", [bundle.ClassLabel(label) for label in labels])
    if len(labels) < 2:
        raise ValueError(
            f"{path} has one class, {labels[0]!r}: there is nothing to tell apart. Put the images of each class into a "
            "folder that has its name."
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
    images.add_argument("--data", type=Path, required=True, metavar="PATH", help="folder or zip to train on")
    images.add_argument("--test", type=Path, metavar="PATH", help="folder or zip that the model card measures")
    images.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help=f"images of --data kept out of training (default: a twentieth, at most {_MOST_HELD_OUT})",
    )
    images.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read, and name them"
    )
    images.add_argument("--data-name", metavar="TEXT", help="what the card calls the images (default: the file's name)")
    images.add_argument(
        "--data-note",
        metavar="MARKDOWN",
        default="Where these images come from and under which terms was not stated.",
        help="the card's sentence on provenance and licence",
    )

    network = result.add_argument_group("network")
    network.add_argument("--architecture", required=True, metavar="NAME", help=f"one of {', '.join(architectures())}")
    network.add_argument("--variant", help="which form of it (default: the first)")

    stem = result.add_argument_group("pre-stem: how an image becomes the network's input")
    stem.add_argument("--size", type=_size, metavar="HxW", help="input size in pixels (default: the architecture's)")
    stem.add_argument("--geometry", choices=get_args(Geometry), default="crop", help="default: %(default)s")
    stem.add_argument("--crop-share", type=float, default=1.0, metavar="S", help="what a centre crop keeps, 0..1")
    stem.add_argument("--filter", choices=get_args(Filter), default="bilinear", help="default: %(default)s")
    for name, what in (("mean", "subtracted from"), ("std", "divides")):
        stem.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{what} 0..255 values (default: of the training images)",
        )

    schedule = result.add_argument_group("training")
    for name, kind, text in (
        ("epochs", int, "passes over the images; how long a run goes on may change on resuming"),
        ("batch_size", int, "images a step"),
        ("learning_rate", float, "its peak, after the warm-up"),
        ("warmup_epochs", float, "epochs until the peak"),
        ("restart_epochs", int, "more epochs, from a warm restart of the learning rate"),
        ("restart_learning_rate", float, "at the restart; it falls to 0 again"),
        ("cutout", float, "side of the square that augmentation blanks, as a share of the image's; 0: none"),
        ("cutout_from", int, "epochs before the first with cutout"),
        ("label_smoothing", float, "share of every target that goes to all classes alike; 0: none"),
        ("momentum", float, "of SGD, Nesterov's form"),
        ("weight_decay", float, "decoupled, on kernels only"),
        ("precision", str, "Keras dtype policy of the training graph, for example mixed_bfloat16"),
        ("seed", int, "of initialisation, hold-out, order and augmentation"),
    ):
        schedule.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default[name], help=f"{text} (default: %(default)s)"
        )

    schedule.add_argument(
        "--stop-after", type=int, metavar="N", help="do so many epochs now; the same command goes on from there"
    )

    outcome = result.add_argument_group("result")
    outcome.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/ARCHITECTURE)")
    outcome.add_argument("--name", help="of the bundle: what a client asks for (default: the name of --out)")
    outcome.add_argument("--bundle-version", default="1", metavar="V", help="of the bundle (default: %(default)s)")
    outcome.add_argument(
        "--training-note",
        metavar="MARKDOWN",
        default="",
        help="for the card: what its table of the training does not tell, for example that the plan was changed",
    )
    outcome.add_argument(
        "--weights-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the weights on disk; float16 halves them, and they are served as float32 (default: %(default)s)",
    )
    outcome.add_argument(
        "--export-only", action="store_true", help="write the bundle of the checkpoint in --out without more training"
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
