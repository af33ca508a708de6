"""`python -m glimpse.models`: what is in the library, a look inside, and its published weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from glimpse.models import published, standard
from glimpse.models.commands import calibrate, compare, describe, fetch, golden
from glimpse.models.commands import list as listing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 1 when the request cannot be met.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, published.FetchError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m glimpse.models",
        description="Show the architectures of the library, look inside a network, and fetch published weights.",
        epilog="`python -m glimpse.models COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in (listing, describe, compare, calibrate, fetch, golden):
        command.add(commands)
    return parser


if __name__ == "__main__":
    standard.run("models", main)
