"""`python -m tests.server.hung_decoder`: a decoder process whose codec does not come back from the first image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

from glimpse.server.decoding import worker


def hang(*_: Any, **__: Any) -> NoReturn:
    """It says so by its name, as the system lists it."""
    Path("/proc/self/comm").write_text("hung")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    worker.prepare = hang  # type: ignore[attr-defined]
    worker.main()
