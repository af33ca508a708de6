"""`python -m tests.server.crashing_decoder`: a decoder process whose codec crashes at the first image."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from glimpse.server.decoding import worker


def crash(*_: Any, **__: Any) -> NoReturn:
    """As the C library does it."""
    os.write(2, b"free(): invalid pointer\n")
    os.abort()


if __name__ == "__main__":
    worker.prepare = crash  # type: ignore[attr-defined]
    worker.main()
