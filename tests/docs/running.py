"""Runs what a page shows, in a folder where it can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tests.conftest import CACHE
from tests.docs.blocks import ROOT, Block

_NOT_NEEDED = frozenset({"runs"})
# Compressed otherwise, its two most probable classes change places: the pages show which is first.
_PHOTO = ROOT / "docs" / "chelsea.jpg"


@dataclass(frozen=True, slots=True)
class Folder:
    """A clone of the repository as its reader has it, with photos beside it, and a server to ask."""

    path: Path
    target: str  # host:port
    metrics: str  # host:port
    http: str = ""  # host:port; "": there is none

    def run(self, text: str) -> str:
        """Run a script of bash; returns stdout. Fails with what it said when a command does."""
        return self._run("bash", "-euo", "pipefail", "-c", self._here(text))

    def python(self, block: Block) -> str:
        """Run a program; returns stdout."""
        file = self.path / (block.title or "example.py")
        file.write_text(self._here(block.text), encoding="utf-8")
        return self._run(sys.executable, str(file))

    def asking(self, target: str) -> Folder:
        """The same with another server."""
        return replace(self, target=target)

    def _here(self, text: str) -> str:
        """The same with this server's address, and with the one file that comes from the network."""
        text = text.replace("localhost:50051", self.target).replace("localhost:9464", self.metrics)
        text = text.replace("localhost:8080", self.http or "localhost:8080")
        return text.replace("https://example.org/cat.jpg", (self.path / "photo.jpg").as_uri())

    def _run(self, *command: str) -> str:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("GLIMPSE_")} | CACHE
        ended = subprocess.run(
            command,
            cwd=self.path,
            env={
                **ours,
                "GLIMPSE_TARGET": self.target,
                "PATH": f"{self.path / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
                "COLUMNS": "80",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=1000,
        )
        assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


def clone(path: Path, *, target: str, metrics_url: str, http: str = "") -> Folder:
    """Links to what the repository has, this Python as its `.venv`, and the photos that the pages speak of."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in _NOT_NEEDED:
            (path / entry.name).symlink_to(entry)
    (path / ".venv").symlink_to(sys.prefix)
    for name in ("photo.jpg", "a.jpg", "b.jpg", "holiday/beach.jpg"):
        (path / name).parent.mkdir(exist_ok=True)
        shutil.copy(_PHOTO, path / name)
    (path / "scans").mkdir()
    Image.open(_PHOTO).save(path / "scans" / "one.png")
    return Folder(path, target, re.sub(r"^https?://|/metrics$", "", metrics_url), http)


def assert_said(block: Block, output: str) -> None:
    """The output has what a page shows of it, in that order; `...` stands for anything."""
    at, lines = 0, [" ".join(line.split()) for line in output.splitlines()]
    said = "\n".join(lines)
    for piece in block.text.split("..."):
        wanted = "\n".join(" ".join(line.split()) for line in piece.splitlines()).strip()
        found = said.find(wanted, at)
        assert found >= 0, f"{block}: {wanted!r} is not in the output (from {at}):\n{said}"
        at = found + len(wanted)
