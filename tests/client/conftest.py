"""What the client's tests share: a scripted server, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.scripted import ScriptedServer
from tests.fork_server import CLI as COMMAND
from tests.fork_server import ForkServer, inherits

ROOT = Path(__file__).parents[2]
CLI = COMMAND  # for the tests, which take it from here

Glimpse = Callable[..., "subprocess.CompletedProcess[str]"]


def album(folder: Path, count: int) -> list[str]:
    """So many files in three folders, by their paths in the order in which they are found."""
    paths = []
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"label {number}")
        paths.append(str(path))
    return sorted(paths)


def paths_in(file: Path) -> list[str]:
    """The paths of the answers in a file, as they stand there."""
    return [json.loads(line)["path"] for line in file.read_text().splitlines()]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Runs commands in processes that need not import anything."""
    running = ForkServer("client")
    yield running
    running.close()


@pytest.fixture
def glimpse(tmp_path: Path, fork_server: ForkServer) -> Glimpse:
    """Run `client/cli.py` in an empty folder, as a shell would."""

    def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GLIMPSE_", "PYTHON"))}
        whole = {**inherited, "COLUMNS": "100", "XDG_CONFIG_HOME": str(tmp_path / "config"), **environment}
        if inherits(environment):
            ended = fork_server.run([*map(str, arguments)], cwd=tmp_path, environment=whole, stdin=stdin)
        else:
            ended = subprocess.run(
                [sys.executable, CLI, *arguments],
                input=stdin,
                capture_output=True,
                cwd=tmp_path,
                env=whole,
                check=False,
            )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


@pytest.fixture
def nowhere() -> str:
    """A target where nobody listens."""
    with ScriptedServer() as gone:
        return gone.target
