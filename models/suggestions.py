"""What an error says about a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with a leading space: the near matches of `word`, or all of `known` where nothing is near."""
    names = list(known)
    if near := difflib.get_close_matches(word, names, n=3):
        return f" Did you mean {' or '.join(near)}?"
    return f" Known: {', '.join(names)}." if names else " None is known."
