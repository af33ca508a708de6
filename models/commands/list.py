"""`python -m glimpse.models list`: every architecture with its sizes and published weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from rich.console import Console

from glimpse.models import published
from glimpse.models.catalogue import rows as library
from glimpse.models.commands.help import Help, examples
from glimpse.models.commands.tables import SIZES, percent, show
from glimpse.models.plain import sequences
from glimpse.models.sizes import size
from glimpse.models.spec import Architecture
from glimpse.models.suggestions import did_you_mean

_WIDE = 112  # columns of a terminal, from which on a row of the list with its sizes stands on one line

# What the names of the variants mean.
_VARIANTS = """\
variants:
  keras          as Keras' own applications build it
  torchvision    as torchvision builds it
  timm           as timm, the library of PyTorch image models, builds it
  tensorflow     as its authors published it for TensorFlow
  paper          as its paper describes it; nobody has published weights of just this form
  caffe          as its authors published it for Caffe
  cifar          as its paper describes it for the small images of CIFAR-10; cifar_wide has more channels
  handbook       as Andrew Ferlitsch's handbook "Learning Keras: Computer Vision Models" (2019) builds it
  geron          as Aurélien Géron's book "Hands-On Machine Learning", chapter 14, builds it"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    listing = commands.add_parser(
        "list",
        help="list the architectures with their variants, sizes and published weights",
        description="List every architecture with its variants, parameters, multiply-adds for one image, and published "
        "weights with their accuracy on ImageNet. Tags are those of torchvision and timm; imagenet is a variant's "
        "default. On a terminal, * marks the weights that an architecture stands for alone: the first in the list, not "
        "the best. GLIMPSE_WEIGHTS=random serves any of them untrained. Not listed is cifar10, the weights of "
        "se_resnet20 (cifar_wide) that come with Glimpse. A terminal of fewer than 112 columns leaves out parameters "
        "and multiply-adds. In a file or a pipe, columns are separated by tabs and no line is wrapped.",
        epilog=_VARIANTS + "\n\n" + examples("list", "list resnet", "list 'se_*' --json"),
        formatter_class=Help,
    )
    listing.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="list only rows whose architecture, variant or weights contain this text, or match it where it has * or ?",
    )
    listing.add_argument("--json", action="store_true", help="print one JSON array, for programs")
    listing.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    chosen = _matching(options.pattern)
    if options.json:
        print(json.dumps([_entry(row, tags) for row, tags in chosen], indent=1))
        return
    console = Console(file=sequences(sys.stdout))
    columns = ("architecture", "variant", "input", *SIZES, "weights", "top-1", "top-5")
    lines = [line for row, tags in chosen for line in _lines(row, tags, mark=console.is_terminal)]
    # A table that folds is not one: the numbers of a narrow terminal are those that people choose by.
    left_out = SIZES if console.is_terminal and console.width < _WIDE else ()
    show(console, columns, lines, left_out=left_out)


def _matching(pattern: str) -> list[tuple[Architecture, tuple[str, ...]]]:
    """The rows whose architecture, variant or tag matches, each with its tags.

    Raises:
        ValueError: there is none.
    """
    wanted = pattern if any(char in pattern for char in "*?[") else f"*{pattern}*"
    found = []
    for row in library():
        tags = published.tags(row.name, row.variant)
        if any(fnmatchcase(name, wanted) for name in (row.name, row.variant)):
            found.append((row, tags))
        elif matching := tuple(tag for tag in tags if fnmatchcase(tag, wanted)):
            found.append((row, matching))
    if not found:
        names = dict.fromkeys(row.name for row in library())
        raise ValueError(f"Nothing in the library matches {pattern!r}.{did_you_mean(pattern, names)}")
    return found


def _lines(row: Architecture, tags: tuple[str, ...], *, mark: bool) -> Iterator[tuple[str, ...]]:
    counted = size(row)
    sizes = (f"{counted.parameters:,}", f"{counted.multiply_adds:,}") if counted else ("", "")
    head = row.name, row.variant, " x ".join(map(str, row.input_shape)), *sizes
    for tag in tags:
        checkpoint = published.find(row.name, row.variant, tag)
        star = " *" if mark and tag == published.DEFAULT_TAG and checkpoint is published.find(row.name) else ""
        yield *head, tag + star, percent(checkpoint.top1), percent(checkpoint.top5)
    if not tags:
        yield *head, "", "", ""


def _entry(row: Architecture, tags: tuple[str, ...]) -> dict[str, Any]:
    counted = size(row)
    known = [(tag, published.find(row.name, row.variant, tag)) for tag in tags]
    return {
        "architecture": row.name,
        "variant": row.variant,
        "paper": row.paper,
        "input": list(row.input_shape),
        "classes": row.classes,
        "options": list(row.OPTIONS),
        "parameters": counted and counted.parameters,
        "multiply_adds": counted and counted.multiply_adds,
        "weights": [
            {
                "tag": tag,
                "top1": each.top1,
                "top5": each.top5,
                "publisher": each.publisher,
                "licence": each.licence,
                "url": each.url,
            }
            for tag, each in known
        ],
    }
