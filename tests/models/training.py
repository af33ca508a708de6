"""How tests train, four layers on images of 8 x 8 pixels, and how they run what a model card says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from glimpse.models import evaluate
from glimpse.models.train import __main__ as command

SMALL = "basic_cnn"  # four layers: what takes a network its seconds is making the graph that trains it
# Bases of transfers: such a network, for patches that differ in colour, although it was designed for grayscale; and one
# with trained weights.
RANDOM = ("--from", "basic_cnn:random", "--size", "8x8", "--channels", "3")
PRETRAINED = "se_resnet20:cifar10"


def options(data: Path, out: Path, *more: str, architecture: str = SMALL) -> list[str]:
    """The command line of a training of two epochs that takes seconds."""
    return [
        *("--data", str(data), "--out", str(out), "--architecture", architecture, "--size", "8x8"),
        *("--channels", "3"),  # the patches differ in colour; `basic_cnn` was designed for grayscale
        *("--hold-out", "6", "--epochs", "2", "--batch-size", "10", "--learning-rate", "0.05", "--name", "patches"),
        *more,
    ]


def transfer_options(data: Path, out: Path, *more: str) -> list[str]:
    """The same of a transfer, whose base `more` names: three epochs of the head, and two of thawed stages."""
    return ["--data", str(data), "--out", str(out), "--name", "patches", "--epochs", "3", "--thaw-epochs", "2", *more]


def commands_of(card: Path) -> list[list[str]]:
    """The commands of a card, in words as a shell makes them of it."""
    blocks = re.findall(r"```sh\n(.*?)\n```", card.read_text(encoding="utf-8"), re.DOTALL)
    words = []
    for block in blocks:
        script = "python() { printf '%s\\0' \"$@\"; }\n" + block
        shell = subprocess.run([str(shutil.which("bash")), "-c", script], capture_output=True, text=True, check=True)
        words.append(shell.stdout.split("\0")[:-1])
    return words


def run_words(words: list[str]) -> int:
    """Run `python -m ...`, without the python."""
    programs = {"glimpse.models.train": command.main, "glimpse.models.evaluate": evaluate.main}
    assert words[0] == "-m"
    return programs[words[1]](words[2:])
