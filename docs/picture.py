"""Make docs/classify.svg and docs/chelsea.jpg: the command line's real answer to a real photo.

Start a server (`make serve`), then: .venv/bin/python docs/picture.py
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text
from skimage import data

DOCS = Path(__file__).parent
WIDTH = 64  # characters


def main() -> None:
    """Classify scikit-image's CC0 photo of Chelsea the cat and draw what the terminal shows."""
    photo = DOCS / "chelsea.jpg"
    Image.fromarray(data.chelsea()).save(photo, quality=85)
    shown = subprocess.run(
        [sys.executable, DOCS.parent / "client" / "cli.py", "classify", photo.name],
        cwd=DOCS,
        env={**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ client/cli.py classify chelsea.jpg", style="bold"))
    console.print(Text.from_ansi(shown.rstrip()))
    console.save_svg(str(DOCS / "classify.svg"), title="glimpse")


if __name__ == "__main__":
    main()
