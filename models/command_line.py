"""The command line parser of the library's programs."""

from __future__ import annotations

import argparse
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
