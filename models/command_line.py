"""The command line parser of the library's programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from glimpse.models.suggestions import nearest


class Parser(argparse.ArgumentParser):
    """The standard library's parser; its error about an unknown option suggests the one that was probably meant."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse the arguments; an unknown one ends the program with exit code 2 and a message."""
        options: argparse.Namespace
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            if not word.startswith("-"):
                self.error(f"unexpected argument {word!r}. Options begin with two dashes; --help lists them")
            hint = nearest(word, self._option_string_actions)
            self.error(f"there is no option {word}.{hint} --help lists all options")
        return options


def architecture_option(text: str) -> tuple[str, Any]:
    """An option of an architecture: ``alpha=0.5`` -> ("alpha", 0.5).

    The value is JSON, as in GLIMPSE_OPTIONS; what is not JSON is text, so that ``stem=handbook`` needs no quotes. Null
    may be written none, and true and false in any case.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"an option is NAME=VALUE, for example alpha=0.5. Received: {text!r}")
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
