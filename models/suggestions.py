"""What an error message says about a name that is not known: the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence, with a leading space, for an error message about an unknown name.

    Args:
        word: the name that was given.
        known: every name that would have been accepted.

    Returns:
        "Did you mean ...?" with up to three similar names; the whole list where none is similar.
    """
    names = list(known)
    if near := difflib.get_close_matches(word, names, n=3):
        return f" Did you mean {' or '.join(near)}?"
    return f" Available: {', '.join(names)}." if names else " There are none."


def nearest(word: str, known: Iterable[str]) -> str:
    """As `did_you_mean`, but with the most similar name only, and empty where none is similar.

    For lists of names that are too long to be part of an error message.
    """
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""
