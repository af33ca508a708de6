"""What the help texts of the commands have in common."""

from __future__ import annotations

import argparse


class Help(argparse.HelpFormatter):
    """Wraps all paragraphs but the examples at the end."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(("examples:", "variants:")):
            return text
        return super()._fill_text(text, width, indent)


def examples(*lines: str) -> str:
    """The end of a help text: each line is what follows `python -m glimpse.models`."""
    return "\n".join(("examples:", *(f"  python -m glimpse.models {line}" for line in lines)))
