"""What a person sees while a long run goes on, and what a program does not."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import CLI
from tests.client.scripted import ScriptedServer


def on_terminal(command: list[str], folder: Path, *, stdout: int | None) -> str:
    """Run a command whose stderr is a terminal; what it shows there. Without a stdout of its own that is there, too."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    running = subprocess.Popen(
        [sys.executable, str(CLI), *command],
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        cwd=folder,
        env=environment,
    )
    os.close(theirs)
    advance = b""
    try:
        while data := os.read(ours, 65536):
            advance += data
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(ours)
    running.wait(60)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", advance.decode())


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for number in range(20):
        (tmp_path / f"{number:02}.jpg").write_text("bad" if number == 7 else "cat")
    return tmp_path


@pytest.mark.parametrize("options", [["--json"], ["--csv", "-o", "answers"], ["-o", "answers"]], ids=" ".join)
def test_a_bar_counts_what_is_done_and_what_failed(scripted: ScriptedServer, album: Path, options: list[str]) -> None:
    command = ["classify", ".", *options, "--target", scripted.target]
    advance = on_terminal(command, album, stdout=subprocess.DEVNULL)
    assert re.search(r"20/20 .*1 failed", advance)
    assert advance.endswith("1 image could not be classified.\r\n") == ("-o" in options)


def test_what_an_earlier_run_has_done_counts(scripted: ScriptedServer, album: Path) -> None:
    command = ["classify", ".", "--json", "-o", "answers", "--resume", "--target", scripted.target]
    on_terminal(command, album, stdout=subprocess.DEVNULL)
    lines = (album / "answers").read_text().splitlines(keepends=True)
    (album / "answers").write_text("".join(lines[:15]))
    assert "20/20" in on_terminal(command, album, stdout=subprocess.DEVNULL)


def test_sorting_has_one_too(scripted: ScriptedServer, album: Path) -> None:
    command = ["sort", ".", "--into", "sorted", "--target", scripted.target]
    assert re.search(r"20/20 .*1 failed", on_terminal(command, album, stdout=subprocess.DEVNULL))


def test_there_is_none_among_answers_on_the_same_terminal(scripted: ScriptedServer, album: Path) -> None:
    advance = on_terminal(["classify", ".", "--target", scripted.target], album, stdout=None)
    assert "00.jpg" in advance
    assert "/20" not in advance
