"""The standard streams: closed, full, or read by somebody who leaves."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glimpse.client.commands.plain
import glimpse.client.nouns
import glimpse.models.plain
import glimpse.models.standard
import glimpse.server.nouns
from glimpse.client.commands import exits, standard
from tests.client.conftest import CLI, ROOT
from tests.client.scripted import ScriptedServer

slow = pytest.mark.slow
COMMANDS = [
    pytest.param("classify photo.jpg", id="classify"),
    pytest.param("classify --json photo.jpg", id="json"),
    pytest.param("--help", id="help"),
    # The same code writes these.
    pytest.param("classify --csv photo.jpg", id="csv", marks=slow),
    pytest.param("describe", id="describe", marks=slow),
    pytest.param("describe --json", id="describe --json", marks=slow),
    pytest.param("health", id="health", marks=slow),
    pytest.param("health --json", id="health --json", marks=slow),
    pytest.param("load --requests 1 --warm-up 0", id="load", marks=slow),
    pytest.param("sort photo.jpg --into sorted --dry-run", id="sort", marks=slow),
    pytest.param("sort --help", id="help of a command", marks=slow),
    pytest.param("--version", id="version", marks=slow),
    pytest.param("--show-completion bash", id="completion", marks=slow),
]
BASH = shutil.which("bash") or "bash"
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")


def shell(line: str, folder: Path, target: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, in which `glimpse` is the command line."""
    (folder / "photo.jpg").write_text("cat")
    script = f'glimpse() {{ "{sys.executable}" "{CLI}" "$@"; }}\nset -o pipefail\n{line}'
    environment = {"PATH": "/usr/bin:/bin", "GLIMPSE_TARGET": target, "HOME": str(folder), "PYTHONPATH": f"{ROOT}"}
    return subprocess.run(
        [BASH, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@needs_full
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_output_ends_with_a_line_and_its_code(scripted: ScriptedServer, tmp_path: Path, command: str) -> None:
    ended = shell(f"glimpse {command} > /dev/full", tmp_path, scripted.target)
    assert ended.stderr == "Error: The standard output cannot be written: No space left on device.\n"
    assert ended.returncode == exits.Exit.CANNOT_WRITE


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_output_ends_with_a_line_and_its_code(scripted: ScriptedServer, tmp_path: Path, command: str) -> None:
    ended = shell(f"glimpse {command} >&-", tmp_path, scripted.target)
    assert ended.stderr == "Error: The standard output cannot be written: Bad file descriptor.\n"
    assert ended.returncode == exits.Exit.CANNOT_WRITE


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_who_leaves_ends_it_without_a_word(scripted: ScriptedServer, tmp_path: Path, command: str) -> None:
    # The reader has left before anything is written.
    ended = shell(f"glimpse {command} | exec 0<&-", tmp_path, scripted.target)
    assert (ended.returncode, ended.stderr) == (exits.Exit.BROKEN_PIPE, "")


@pytest.mark.parametrize("ends", ["2>&-", pytest.param("2>/dev/full", marks=needs_full)])
def test_messages_that_cannot_be_written_are_left_out(scripted: ScriptedServer, tmp_path: Path, ends: str) -> None:
    whole = shell(f"glimpse classify photo.jpg gone.jpg --json {ends}", tmp_path, scripted.target)
    assert whole.returncode == exits.Exit.IMAGES_FAILED
    assert whole.stdout.count("\n") == 2
    wrong = shell(f"glimpse classify --nonsense {ends}", tmp_path, scripted.target)
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (exits.Exit.USAGE, "", "")


def test_with_all_streams_closed_a_file_gets_the_answers_and_nothing_else(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    # A descriptor that is closed would be given to the file, and what is printed would land in it.
    ended = shell("glimpse classify photo.jpg - gone.jpg -o out --json <&- >&- 2>&-", tmp_path, scripted.target)
    assert ended.returncode == exits.Exit.IMAGES_FAILED
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == 3
    assert all(line.startswith('{"path": ') for line in lines)


@needs_full
def test_taking_a_sort_back_needs_no_output_to_be_done(scripted: ScriptedServer, tmp_path: Path) -> None:
    sorted_ = shell("glimpse sort photo.jpg --into sorted", tmp_path, scripted.target)
    [undo_list] = [line.split()[-1] for line in sorted_.stderr.splitlines() if line.startswith("To undo this")]
    ended = shell(f"glimpse unsort {undo_list} > /dev/full", tmp_path, scripted.target)
    assert ended.returncode == exits.Exit.CANNOT_WRITE
    assert ended.stderr == "Error: The standard output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        pytest.param("> /dev/full", exits.Exit.CANNOT_WRITE, marks=needs_full),
        (">&-", exits.Exit.CANNOT_WRITE),
        ("| exec 0<&-", exits.Exit.BROKEN_PIPE),
        ("--help | grep -c usage", 0),
        ("--nonsense", 2),
    ],
)
def test_the_manual_page_ends_the_same_way(tmp_path: Path, ends: str, code: int) -> None:
    script = f'set -o pipefail; "{sys.executable}" -m glimpse.client.manual {ends}'
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    ended = subprocess.run(
        [BASH, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ".TH" not in ended.stdout


def test_the_codes_are_the_documented_ones() -> None:
    assert (standard.CANNOT_WRITE, standard.BROKEN_PIPE) == (exits.Exit.CANNOT_WRITE, exits.Exit.BROKEN_PIPE)


@pytest.mark.parametrize(
    "name", ["OutputError", "ReaderLeftError", "_Output", "_Error", "prepare", "_guarded", "silence"]
)
def test_client_and_library_have_the_same(name: str) -> None:
    """Neither imports anything of the other; what is mended in one has to be mended in both."""
    ours, theirs = (inspect.getsource(getattr(module, name)) for module in (standard, glimpse.models.standard))
    assert ours == theirs


def test_client_and_server_count_alike() -> None:
    assert inspect.getsource(glimpse.client.nouns) == inspect.getsource(glimpse.server.nouns)


def test_client_and_library_make_text_plain_alike() -> None:
    ours, theirs = (
        inspect.getsource(module).split('"""', 2)[2] for module in (glimpse.client.commands.plain, glimpse.models.plain)
    )
    assert ours == theirs
