"""The programs of the library and of the server from outside: what a shell makes of their streams."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glimpse.client.commands import standard as clients
from glimpse.models import standard

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash") or "bash"
FULL = pytest.param("> /dev/full", "No space left on device", id="full")
CLOSED = pytest.param(">&-", "Bad file descriptor", id="closed")
PROGRAMS = [
    pytest.param("models list", id="list"),
    pytest.param("models describe resnet20", id="describe", marks=pytest.mark.slow),
    pytest.param("glimpse.models.evaluate --help", id="evaluate", marks=pytest.mark.slow),
    pytest.param("glimpse.models.train --help", id="train", marks=pytest.mark.slow),
    pytest.param("glimpse.server.access.tokens new alice", id="tokens"),
]


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which `python` is this interpreter."""
    script = f'python() {{ "{sys.executable}" "$@"; }}\nset -o pipefail\n{line}'
    return subprocess.run([BASH, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("output", "why"), [FULL, CLOSED])
def test_an_output_that_cannot_be_written_ends_with_a_line_and_10(program: str, output: str, why: str) -> None:
    ended = shell(f"python -m {program} {output}")
    assert ended.returncode == standard.CANNOT_WRITE
    assert (
        ended.stderr.splitlines()[-1]
        == f"{program.split(maxsplit=1)[0]}: The standard output cannot be written: {why}."
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_reader_who_leaves_ends_it_quietly(program: str) -> None:
    ended = shell(f"python -m {program} | exec 0<&-")
    assert ended.returncode == standard.BROKEN_PIPE
    assert "cannot be written" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_messages_that_cannot_be_written_are_left_out() -> None:
    ended = shell("python -m glimpse.models describe nonsense 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


@pytest.mark.ci
def test_what_tensorflow_says_at_its_start_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are libraries that Keras imports and does not need."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    described = shell("python -X importtime -m glimpse.models describe se_resnet20")
    assert "total" in described.stdout
    lines = described.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "keras.src.wrappers" in imported
    assert imported.isdisjoint({"sklearn.utils", "matplotlib.figure"})


def test_client_and_library_end_with_the_same_codes() -> None:
    assert (standard.CANNOT_WRITE, standard.BROKEN_PIPE) == (clients.CANNOT_WRITE, clients.BROKEN_PIPE)
