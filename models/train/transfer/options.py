"""The options of `python -m glimpse.models.train` that begin with a pretrained network."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import get_args

from glimpse.models.train.transfer.base import Base
from glimpse.models.train.transfer.plan import ClassWeights, TransferPlan

_DESCRIPTION = """\
A pretrained network with a new classifier. First the new classifier is trained on what the frozen network makes of the
images, which is computed once and kept in OUT/features; then, with --thaw, the last stages of the network with it. The
preprocessing is the base's, except what --size, --geometry, --crop-share, --filter, --mean and --std change. With
--from, other defaults hold: {defaults}; --hold-out
is a tenth of the images, and batches are smaller for fewer than 512."""

_ONLY_HERE = ("thaw", "thaw_epochs", "patience", "class_weights")
_OF_THE_PLAN = ("epochs", "batch_size", "learning_rate", "label_smoothing", "weight_decay", "seed")
# What a training from scratch has and a transfer has not.
_NOT_HERE = (
    *("optimizer", "warmup_epochs", "restart_epochs", "restart_learning_rate", "cutout", "cutout_from", "momentum"),
    *("cutmix", "precision"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the group of options."""
    default = {field.name: field.default for field in dataclasses.fields(TransferPlan)}
    shown = ", ".join(
        f"--{name.replace('_', '-')} {default[name]}"
        for name in ("epochs", "batch_size", "learning_rate", "weight_decay")
    )
    group = parser.add_argument_group("transfer learning", _DESCRIPTION.format(defaults=shown))
    group.add_argument(
        "--from",
        dest="base",
        metavar="BASE",
        help="network to start from: the name of an architecture with weights, NAME or NAME:TAG as python -m "
        "glimpse.models list shows them, for example resnet50:imagenet_v2; NAME:random for random weights, "
        "NAME:random:7 for those of another seed than 0; the folder of a bundle; a .keras file; or a weights file, "
        "with the name of its network in --architecture (default: train from scratch)",
    )
    group.add_argument(
        "--thaw",
        type=int,
        metavar="STAGES",
        default=default["thaw"],
        help="train so many of the last stages before the classifier, too, with a tenth of --learning-rate; may be "
        "given when a run is resumed. python -m glimpse.models describe shows the stages; a .keras file is one "
        "(default: %(default)s)",
    )
    for name, text in (
        ("thaw_epochs", "epochs with thawed stages, at most"),
        (
            "patience",
            "end when the loss on the held-out images, once calibrated, has not fallen for so many epochs",
        ),
    ):
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            metavar="N",
            default=default[name],
            help=f"{text} (default: %(default)s)",
        )
    group.add_argument(
        "--class-weights",
        choices=get_args(ClassWeights),
        default=default["class_weights"],
        help="balanced: all classes count the same, however many images each has; none: all images do "
        "(default: %(default)s)",
    )


def given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> frozenset[str]:
    """The names of the options that a command gives, whatever their values."""
    names = vars(parser.parse_args(["--data", ""]))
    unset = object()
    parser.set_defaults(**dict.fromkeys(names.keys() - {"options"}, unset))
    found = {name for name, value in vars(parser.parse_args(arguments)).items() if value is not unset}
    return frozenset(found - {"options"} if vars(parser.parse_args(arguments))["options"] is None else found)


def check_without(options: argparse.Namespace) -> None:
    """Refuse a training from scratch without a network, or with options of a transfer.

    Raises:
        ValueError: the message says which option is missing or has no effect.
    """
    if options.architecture is None:
        raise ValueError("Which network? Give --architecture NAME, or --from BASE to start from a pretrained one.")
    default = {field.name: field.default for field in dataclasses.fields(TransferPlan)}
    for name in _ONLY_HERE:
        if getattr(options, name) != default[name]:
            raise ValueError(f"--{name.replace('_', '-')} has an effect only together with --from.")


def plan_of(options: argparse.Namespace, names: Collection[str], base: Base) -> TransferPlan:
    """The plan that the options describe.

    Args:
        options: of the command.
        names: of those that were given; the others have the defaults of a transfer.
        base: that was found.

    Raises:
        ValueError: a value is out of range, or an option has no effect.
    """
    for name in _NOT_HERE:
        if name in names:
            raise ValueError(f"--{name.replace('_', '-')} has no effect with --from. Leave it out.")
    values = {name: getattr(options, name) for name in (*_ONLY_HERE, *_OF_THE_PLAN) if name in names}
    return TransferPlan(
        base=base.name,
        base_digest=base.digest,
        architecture=base.architecture,
        variant=base.variant,
        options=dict(base.options),
        head="softmax" if options.labels is None else "multi-label",
        **values,
    )


def reproducing(options: argparse.Namespace, names: Collection[str]) -> tuple[str, ...]:
    """The arguments of a command that lead to the same bundle, one option with its values after the other."""
    words: list[str] = []
    for name in vars(options):
        if name not in names or name in {"export_only", "stop_after", "hold_out", "options"}:
            continue
        flag, value = {"base": "--from"}.get(name, f"--{name.replace('_', '-')}"), getattr(options, name)
        if value is True:
            words.append(flag)
        elif name == "size":
            words += [flag, "x".join(map(str, value))]
        else:
            words += [flag, *map(str, value)] if isinstance(value, list) else [flag, str(value)]
    for option, value in options.options or ():
        words += ["--option", f"{option}={json.dumps(value)}"]
    return tuple(words)
