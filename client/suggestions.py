"""What an error says about a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with a leading space: the nearest of the known names, or all of them where none is near."""
    from difflib import get_close_matches  # only where something is wrong

    names = list(known)
    near = get_close_matches(name.replace("-", "_").lower(), names, n=2)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    return f" There are: {', '.join(names)}."
