"""The options of `python -m glimpse.models.train`, and what follows from them without reading an image."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from glimpse.models.catalogue import architectures, find
from glimpse.models.command_line import Parser, architecture_option
from glimpse.models.prestem.recipe import Filter, Geometry, Padding, Recipe
from glimpse.models.spec import Architecture
from glimpse.models.train import defaults
from glimpse.models.train.plan import Optimizer, Plan
from glimpse.models.train.transfer import options as transfer_options

MAX_HELD_OUT = 2500  # images held out by default; enough to fit the temperature, and to see a training go wrong

_DESCRIPTION = """\
Train an architecture of the library on labelled images, and write a bundle that the server can load.

The images are a folder or a zip file with one folder for each class: .../CLASS/IMAGE; or, where an image may show
several labels or none, any folder or zip file with a table of labels (--labels). A checkpoint is written after
every epoch; run the same command again to resume an interrupted training. At the end, a temperature is fitted on the
held-out images, and the bundle is written to OUT/bundle: weights, labels, model card and plots.

The backend of Keras is chosen by an environment variable: KERAS_BACKEND=tensorflow (the default), jax or torch."""

_EXAMPLE = """\
examples:
  python -m glimpse.models.train --data train.zip --test test.zip --architecture se_resnet20
  python -m glimpse.models.train --data photos/ --architecture mobilenet --size 224 --epochs 60 --out runs/photos
  python -m glimpse.models.train --data photos/ --from efficientnet_lite0 --thaw 2 --out runs/photos
  python -m glimpse.models.train --data photos/ --labels labels.csv --architecture se_resnet20 --size 64"""


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        prog="python -m glimpse.models.train",
        usage="%(prog)s --data PATH (--architecture NAME | --from BASE) [options]",
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
        "--samples",
        type=Path,
        metavar="PATH",
        help="further images to train on: a folder in which a server keeps samples (GLIMPSE_SAMPLES), of which those "
        "with a true class are taken, or any folder or zip file like --data",
    )
    images.add_argument(
        "--test",
        type=Path,
        metavar="PATH",
        help="folder or zip file of test images, for the results in the model card (default: the held-out images)",
    )
    images.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="train a multi-label model: this table says which labels each image of --data shows, several, one or "
        "none. Either file,labels with | or ; between the labels, or file,cat,dog,... with 1 or 0",
    )
    images.add_argument(
        "--test-labels", type=Path, metavar="CSV", help="the same for --test; needed there with --labels"
    )
    images.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="number of images of --data that are not trained on, to fit the temperature and to monitor the training "
        f"(default: 5%% of them, with --labels 20%%, at most {MAX_HELD_OUT})",
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
        "--architecture",
        metavar="NAME",
        help=f"network to train: one of {', '.join(architectures())} (default: that of --from)",
    )
    network.add_argument(
        "--variant", help="variant of the architecture; python -m glimpse.models list shows them (default: the first)"
    )
    network.add_argument(
        "--option",
        action="append",
        type=architecture_option,
        dest="options",
        metavar="NAME=VALUE",
        help="option of the architecture, with a value in JSON, for example alpha=0.5 or auxiliary=true; may be given "
        "several times (default: the variant's values)",
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
    stem.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="channels that the network sees: 3 for colour, 1 for grayscale (default: as many as the variant was "
        "designed for)",
    )
    stem.add_argument(
        "--padding",
        choices=get_args(Padding),
        help="what is added around images that are smaller than the input: black pixels, which are scaled as others "
        "are (fill), or 0 in the network's input, behind the scaling (zero) (default: zero for the variant handbook, "
        "else fill)",
    )
    for name, what in (("mean", "subtracted from the pixel values"), ("std", "that the result is divided by")):
        stem.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"numbers {what}, one for each channel, for pixel values of 0 to 255 (default: those of the training "
            "images)",
        )

    transfer_options.add(result)

    schedule = result.add_argument_group("training")
    schedule.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images in a batch (default: 128, and less for few images, so that an epoch has at least 32 steps)",
    )
    schedule.add_argument(
        "--optimizer",
        choices=get_args(Optimizer),
        help=f"sgd, with Nesterov momentum, or adam (default: by architecture: {_by_optimizer()})",
    )
    schedule.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="peak learning rate, after the warm-up; may be lowered when a run is resumed (default: by architecture: "
        f"{_rates()}. That of sgd is in proportion to --batch-size where it is less than {defaults.REFERENCE_BATCH})",
    )
    schedule.add_argument(
        "--restart-learning-rate",
        type=float,
        metavar="RATE",
        help="learning rate at the restart, from which it falls to 0 again (default: half of --learning-rate)",
    )
    for name, kind, text in (
        ("epochs", int, "passes over the training images; may be changed when a run is resumed"),
        ("warmup_epochs", float, "epochs until the learning rate reaches its peak"),
        ("restart_epochs", int, "further epochs after a warm restart of the learning rate; 0: no restart"),
        ("cutout", float, "side of the square that augmentation blanks out, as a share of the image's side; 0: none"),
        ("cutout_from", int, "number of epochs that are trained without cutout first"),
        ("cutmix", float, "share of the batches in which every image gets a rectangle of another one; 0: none"),
        ("label_smoothing", float, "share of each target that is spread over all classes, 0 to 1; 0: none"),
        ("momentum", float, "momentum of sgd; of adam, the decay of its mean of gradients (beta 1)"),
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
        "--without-pictures",
        action="store_true",
        help="put none of the held-out images into the bundle, with up to 300 of which a server may make the network "
        "int8",
    )
    outcome.add_argument(
        "--export-only",
        action="store_true",
        help="write the bundle from the checkpoint in --out, without further training",
    )
    return result


def plan_of(options: argparse.Namespace, *, images: int | None = None, begun: Mapping[str, Any] | None = None) -> Plan:
    """The plan that the options describe.

    Args:
        options: of the command.
        images: number of images that are trained on, from which the batch size follows; None: not known yet.
        begun: the run that is resumed, see `models.train.plan.earlier`: its plan holds for what the command leaves
            open, so that a run goes on as it began, also where a default has become another one since.

    Raises:
        UnknownArchitectureError: there is no such architecture, variant or option.
        ValueError: a value is out of range.
    """
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Plan) if field.name != "head"}
    values["head"] = "softmax" if options.labels is None else "multi-label"
    values["options"] = dict(options.options or ())
    row = find(options.architecture, options.variant, values["options"])
    for name, value in _of_architecture(begun, options).get("plan", {}).items():
        if name in ("batch_size", "optimizer", "learning_rate", "restart_learning_rate") and values[name] is None:
            values[name] = value
    if values["batch_size"] is None:
        values["batch_size"] = defaults.REFERENCE_BATCH if images is None else defaults.batch_size(images)
    if values["optimizer"] is None:
        values["optimizer"] = defaults.of(row).optimizer
    if values["learning_rate"] is None:
        values["learning_rate"] = defaults.learning_rate(row, values["optimizer"], values["batch_size"])
    if values["restart_learning_rate"] is None:
        values["restart_learning_rate"] = values["learning_rate"] / 2
    return Plan(**values)


def recipe_of(options: argparse.Namespace, row: Architecture, begun: Mapping[str, Any] | None = None) -> Recipe:
    """The pre-stem that the options describe, but for the scaling, where it is not given.

    Args:
        options: of the command.
        row: the architecture, which was designed for a size, for channels and for a padding.
        begun: the run that is resumed, see `models.train.plan.earlier`: channels and padding of its recipe hold where
            the command leaves them open.

    Raises:
        ValueError: a value is out of range.
    """
    resumed = _of_architecture(begun, options).get("recipe", {})
    channels = resumed.get("channels", "GRAY" if row.input_shape[2] == 1 else "RGB")
    if options.channels is not None:
        channels = "GRAY" if options.channels == 1 else "RGB"
    # A run has no padding in its recipe where it is fill.
    padding = options.padding or (resumed.get("padding", "fill") if resumed else row.padding)
    height, width = options.size or row.shape[:2]
    recipe = Recipe(
        height=height,
        width=width,
        geometry=options.geometry,
        crop_share=options.crop_share,
        filter=options.filter,
        channels=channels,
        padding=padding,
    )
    return scaled(recipe, options.mean, options.std)


def scaled(recipe: Recipe, mean: Sequence[float] | None, std: Sequence[float] | None) -> Recipe:
    """The recipe with a scaling, where it is given: a number for each channel."""
    if mean is not None:
        recipe = dataclasses.replace(recipe, mean=tuple(mean))
    if std is not None:
        recipe = dataclasses.replace(recipe, std=tuple(std))
    return recipe


def _of_architecture(begun: Mapping[str, Any] | None, options: argparse.Namespace) -> Mapping[str, Any]:
    """The run that is resumed; empty where it is one of another architecture, and so cannot be resumed."""
    return begun if begun and begun["plan"].get("architecture") == options.architecture else {}


def _by_optimizer() -> str:
    """Which architectures are trained with SGD by default; all others are with Adam."""
    return f"sgd for {', '.join(defaults.architectures('sgd'))} with batch normalisation; adam for all others"


def _rates() -> str:
    """The rates of the optimisers, and the architectures that have another one."""
    others = "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in defaults.exceptions().items())
    others += f"; {defaults.SLOWER_ADAM.learning_rate:g} for residual networks without batch normalisation"
    usual = f"sgd {defaults.SGD.learning_rate:g}, adam {defaults.ADAM.learning_rate:g}"
    return f"{usual}; {others}"


def reproducing(options: argparse.Namespace) -> tuple[str, ...]:
    """Arguments for the command in the model card: those that differ from their defaults.

    Options of the plan and of the recipe are left out, because the card knows their values.
    """
    words = ["--data", str(options.data)]
    defaults = vars(parser().parse_args(["--data", "", "--architecture", ""]))
    for name in (
        "samples",
        "labels",
        "test",
        "test_labels",
        "out",
        "name",
        "bundle_version",
        "data_name",
        "data_note",
        "training_note",
        "weights_dtype",
    ):
        if (value := getattr(options, name)) != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [
        f"--{name.replace('_', '-')}" for name in ("skip_unreadable", "without_pictures") if getattr(options, name)
    ]
    return tuple(words)


def _size(text: str) -> tuple[int, int]:
    try:
        height, _, width = text.lower().partition("x")
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, for example 32x32. Received: {text!r}") from None
