"""The options of `python -m glimpse.models.train`, and what follows from them without reading an image."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import get_args

from glimpse.models.catalogue import architectures
from glimpse.models.command_line import Parser
from glimpse.models.prestem.recipe import Filter, Geometry
from glimpse.models.train.plan import Plan

MAX_HELD_OUT = 2500  # images held out by default; enough to fit the temperature, and to see a training go wrong

_DESCRIPTION = """\
Train an architecture of the library on labelled images, and write a bundle that the server can load.

The images are a folder or a zip file with one folder for each class: .../CLASS/IMAGE. A checkpoint is written after
every epoch; run the same command again to resume an interrupted training. At the end, a temperature is fitted on the
held-out images, and the bundle is written to OUT/bundle: weights, labels, model card and plots.

The backend of Keras is chosen by an environment variable: KERAS_BACKEND=tensorflow (the default), jax or torch."""

_EXAMPLE = """\
examples:
  python -m glimpse.models.train --data train.zip --test test.zip --architecture se_resnet20
  python -m glimpse.models.train --data photos/ --architecture mobilenet --size 224 --epochs 60 --out runs/photos"""


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        prog="python -m glimpse.models.train",
        usage="%(prog)s --data PATH --architecture NAME [options]",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = {field.name: field.default for field in dataclasses.fields(Plan)}

    images = result.add_argument_group("images")
    images.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="folder or zip file of the images to train on"
    )
    images.add_argument(
        "--test",
        type=Path,
        metavar="PATH",
        help="folder or zip file of test images, for the results in the model card (default: the held-out images)",
    )
    images.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="number of images of --data that are not trained on, to fit the temperature and to monitor the training "
        f"(default: 5%% of them, at most {MAX_HELD_OUT})",
    )
    images.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="skip images that cannot be read, and list them (default: refuse to train)",
    )
    images.add_argument(
        "--data-name", metavar="TEXT", help="name of the data set in the model card (default: the file name of --data)"
    )
    images.add_argument(
        "--data-note",
        metavar="MARKDOWN",
        default="The source and the licence of these images were not stated.",
        help="paragraph of the model card about the source and the licence of the images",
    )

    network = result.add_argument_group("network")
    network.add_argument(
        "--architecture", required=True, metavar="NAME", help=f"network to train: one of {', '.join(architectures())}"
    )
    network.add_argument(
        "--variant", help="variant of the architecture; python -m glimpse.models list shows them (default: the first)"
    )

    stem = result.add_argument_group("pre-stem (preprocessing: how an image becomes the network's input)")
    stem.add_argument(
        "--size", type=_size, metavar="HxW", help="input size in pixels, for example 224x224 (default: the variant's)"
    )
    stem.add_argument(
        "--geometry",
        choices=get_args(Geometry),
        default="crop",
        help="how an image of another aspect ratio is fitted: cut off the edges (crop), distort (squash), or add "
        "borders (letterbox; pad, which never enlarges) (default: %(default)s)",
    )
    stem.add_argument(
        "--crop-share",
        type=float,
        default=1.0,
        metavar="S",
        help="share of the shorter side that the centre crop keeps, above 0 and at most 1 (default: %(default)s)",
    )
    stem.add_argument(
        "--filter", choices=get_args(Filter), default="bilinear", help="resampling filter (default: %(default)s)"
    )
    for name, what in (("mean", "subtracted from the pixel values"), ("std", "that the result is divided by")):
        stem.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"numbers {what}, for pixel values of 0 to 255 (default: those of the training images)",
        )

    schedule = result.add_argument_group("training")
    for name, kind, text in (
        ("epochs", int, "passes over the training images; may be changed when a run is resumed"),
        ("batch_size", int, "images in a batch"),
        ("learning_rate", float, "peak learning rate, after the warm-up"),
        ("warmup_epochs", float, "epochs until the learning rate reaches its peak"),
        ("restart_epochs", int, "further epochs after a warm restart of the learning rate; 0: no restart"),
        ("restart_learning_rate", float, "learning rate at the restart, from which it falls to 0 again"),
        ("cutout", float, "side of the square that augmentation blanks out, as a share of the image's side; 0: none"),
        ("cutout_from", int, "number of epochs that are trained without cutout first"),
        ("label_smoothing", float, "share of each target that is spread over all classes, 0 to 1; 0: none"),
        ("momentum", float, "Nesterov momentum of SGD"),
        ("weight_decay", float, "decoupled weight decay, of kernels only"),
        ("precision", str, "Keras dtype policy of the training, for example mixed_bfloat16"),
        ("seed", int, "random seed of initialisation, hold-out, shuffling and augmentation"),
    ):
        schedule.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default[name], help=f"{text} (default: %(default)s)"
        )

    schedule.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="stop after this many epochs; the same command resumes the run (default: train to the end)",
    )

    outcome = result.add_argument_group("result")
    outcome.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the checkpoint, the history and the bundle (default: runs/ARCHITECTURE)",
    )
    outcome.add_argument("--name", help="name of the bundle, which clients ask for (default: the folder name of --out)")
    outcome.add_argument("--bundle-version", default="1", metavar="V", help="version of the bundle (default: 1)")
    outcome.add_argument(
        "--training-note",
        metavar="MARKDOWN",
        default="",
        help="paragraph of the model card about the training, for example that the plan was changed halfway",
    )
    outcome.add_argument(
        "--weights-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="number format of the weights file; float16 halves its size, and the server computes with float32 either "
        "way (default: %(default)s)",
    )
    outcome.add_argument(
        "--export-only",
        action="store_true",
        help="write the bundle from the checkpoint in --out, without further training",
    )
    return result


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe.

    Raises:
        ValueError: a value is out of range.
    """
    return Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})


def reproducing(options: argparse.Namespace) -> tuple[str, ...]:
    """Arguments for the command in the model card: those that differ from their defaults.

    Options of the plan and of the recipe are left out, because the card knows their values.
    """
    words = ["--data", str(options.data)]
    defaults = vars(parser().parse_args(["--data", "", "--architecture", ""]))
    for name in ("test", "out", "name", "bundle_version", "data_name", "data_note", "training_note", "weights_dtype"):
        if (value := getattr(options, name)) != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.skip_unreadable:
        words.append("--skip-unreadable")
    return tuple(words)


def _size(text: str) -> tuple[int, int]:
    try:
        height, _, width = text.lower().partition("x")
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, for example 32x32. Received: {text!r}") from None
