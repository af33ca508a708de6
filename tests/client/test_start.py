"""How the command line starts: fast, from any folder, with any Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from glimpse.client import cli
from glimpse.client.commands import exits
from tests.client.conftest import CLI, ROOT, Glimpse
from tests.client.scripted import ScriptedServer


@pytest.mark.parametrize("arguments", [["--help"], ["classify", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_that_is_slow(arguments: list[str]) -> None:
    script = f"""
import runpy, sys
sys.argv = [{str(CLI)!r}, *{arguments!r}]
try:
    runpy.run_path({str(CLI)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write(" ".join(sys.modules))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in ended.stderr.split()}
    assert "typer" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "numpy", "grpc", "google", "rich", "models", "server"})
    assert ended.stdout


def test_using_the_client_loads_no_framework(scripted: ScriptedServer) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "src")!r}]
from glimpse.client import Client
with Client({scripted.target!r}) as client:
    assert client.classify(b"cat").predictions[0].label == "cat"
print(*sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in ended.stdout.split()}
    assert "grpc" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "numpy", "PIL", "models", "server"})


def python_of(folder: Path, *, packages: bool) -> Path:
    """An interpreter in a virtual environment of its own, with this one's packages or with none."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    if packages:
        site = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        (Path(site.strip()) / "these.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the client needs of a clone, in another place."""
    clone = tmp_path / "clone"
    for folder in ("client", "proto", "src"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, clone / folder, symlinks=True, ignore=ignore)
    return clone


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which `python3` is an interpreter without any packages."""
    bin_folder = python_of(tmp_path / "bare", packages=False).parent
    return {"PATH": f"{bin_folder}:{os.environ['PATH']}"}


def test_the_file_runs_from_any_folder_on_the_clones_own_environment(
    clone: Path, bare: dict[str, str], scripted: ScriptedServer, tmp_path: Path
) -> None:
    python_of(clone / ".venv", packages=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my photo.jpg").write_text("cat")

    ended = subprocess.run(
        [clone / "client" / "cli.py", "classify", "my photo.jpg", "--json", "--target", scripted.target],
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
        env=bare,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["predictions"][0]["label"] == "cat"


def test_the_file_runs_through_a_link(clone: Path, bare: dict[str, str], tmp_path: Path) -> None:
    python_of(clone / ".venv", packages=True)
    (tmp_path / "glimpse").symlink_to(clone / "client" / "cli.py")
    ended = subprocess.run(
        [tmp_path / "glimpse", "--version"], capture_output=True, text=True, env=bare, cwd="/", check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("glimpse ")


def test_examples_show_the_name_that_the_program_was_called_by(clone: Path, bare: dict[str, str]) -> None:
    """Also where the file has started the interpreter of `.venv` in its own place."""
    python_of(clone / ".venv", packages=True)
    for called, folder in (("client/cli.py", clone), ("./cli.py", clone / "client")):
        ended = subprocess.run(
            [called, "health", "--help"], capture_output=True, text=True, env=bare, cwd=folder, check=False
        )
        assert ended.returncode == 0, ended.stderr
        wanted = f"    {called} health --wait --timeout 120 && {called} classify photo.jpg\n"
        assert wanted in ended.stdout
        assert "glimpse health" not in ended.stdout


def test_a_clone_that_is_not_set_up_says_what_to_run(clone: Path, bare: dict[str, str]) -> None:
    ended = subprocess.run(
        [clone / "client" / "cli.py", "--help"], capture_output=True, text=True, env=bare, check=False
    )
    assert (ended.returncode, ended.stdout) == (8, "")
    assert f"there is no {clone / '.venv'}; run `make serve` or `make client`" in ended.stderr


def test_an_environment_that_lacks_packages_says_so_and_does_not_start_itself(
    clone: Path, bare: dict[str, str]
) -> None:
    """An environment that lacks packages says so, instead of starting itself for ever."""
    python_of(clone / ".venv", packages=False)
    ended = subprocess.run(
        [clone / "client" / "cli.py", "--help"], capture_output=True, text=True, env=bare, check=False
    )
    assert ended.returncode == 8
    assert (
        "lacks grpc, grpc_status, rich, typer; if `make serve` is installing them, wait for it, else run"
        in ended.stderr
    )


def test_the_exit_code_for_a_missing_set_up_is_the_documented_one() -> None:
    assert exits.Exit.NOT_SET_UP == cli.NOT_SET_UP


def test_every_exit_code_is_documented_by_help() -> None:
    documented = {int(line.split()[0]) for line in exits.TABLE.splitlines() if line.strip()[:1].isdigit()}
    assert documented == set(exits.Exit)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("glimpse s", {"similar", "sort"}),
        ("glimpse classify --re", {"--require-known", "--resume", "--retry-failed"}),
        ("glimpse sort --min", {"--min-probability"}),
    ],
)
def test_a_shell_completes_commands_and_options(glimpse: Glimpse, words: str, offered: set[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_CLI_PY_COMPLETE": "complete_bash"}
    assert set(glimpse(**asked, **{"_CLI.PY_COMPLETE": "complete_bash"}).stdout.split()) == offered
