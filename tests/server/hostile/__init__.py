"""Files made to harm: small valid ones, ways to break them, and bombs. All of it is made here; none is shipped."""

from __future__ import annotations


def tell(text: str) -> None:
    """Say what was measured; `pytest -s` shows it, and so does a failure."""
    print(text)  # noqa: T201 - a figure that is asked for, not what is left of a search for an error
