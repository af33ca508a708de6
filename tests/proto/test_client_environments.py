"""The built wheel in client-only environments, on both ends of what the client allows.

The environments are real: pip makes them from locks/client-oldest.txt (protobuf 6.31.1, for which the stubs are made)
and locks/client-newest.txt (protobuf 7), and they see the wheel, not the source. They are kept in .cache/ until the
lock changes, because making them takes the network and half a minute.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("client_probe.py")


class Server(Protocol):
    """What the fixture `server` gives."""

    @property
    def target(self) -> str: ...


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Standard output of a command that must succeed."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(map(str, command))}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def install(python: Path, *what: str | Path) -> None:
    """With the pip of this environment: another one of its own would take seconds to make."""
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *what)


def environment(lock: Path) -> Path:
    """The Python of a virtual environment that holds exactly what `lock` names."""
    folder = ROOT / ".cache" / lock.stem
    python = folder / "bin" / "python"
    made_from = folder / "made-from"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if not made_from.exists() or made_from.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder)
        install(python, "--require-hashes", "-r", lock)
        made_from.write_text(key)
    return python


def built(project: Path, folder: Path) -> Path:
    """The wheel of a project."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=project)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's."""
    return built(ROOT / "src", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="session")
def server_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session", params=[("client-oldest", "6.31.1"), ("client-newest", "7.")], ids=lambda p: p[0])
def client_only(request: pytest.FixtureRequest, wheel: Path) -> tuple[Path, str]:
    """A Python with nothing but the client's dependencies and the wheel, and how its protobuf version begins."""
    lock, protobuf = request.param
    python = environment(ROOT / "locks" / f"{lock}.txt")
    install(python, "--no-index", "--force-reinstall", wheel)
    return python, protobuf


def probe(python: Path, folder: Path, *arguments: str | Path) -> dict[str, Any]:
    # -I: neither the source nor the user's own packages are on the path.
    answer: dict[str, Any] = json.loads(run(python, "-I", "-W", "error", PROBE, *arguments, cwd=folder))
    return answer


@pytest.mark.ci
def test_the_client_loads_without_a_warning_and_without_a_framework(
    client_only: tuple[Path, str], tmp_path: Path
) -> None:
    python, protobuf = client_only

    seen = probe(python, tmp_path)

    assert seen["protobuf"].startswith(protobuf)
    assert seen["frameworks"] == []
    assert seen["round_trip"] is True
    assert Path(seen["client"]).is_relative_to(python.parents[1]), "It is the wheel that was imported, not the source."


def test_the_client_classifies(client_only: tuple[Path, str], server: Server, tmp_path: Path) -> None:
    python, _ = client_only
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 48), (200, 120, 40)).save(photo)

    seen = probe(python, tmp_path, server.target, photo)

    probabilities = [probability for _, probability in seen["predictions"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


def test_where_the_server_is_missing_the_classifier_says_what_to_install(
    client_only: tuple[Path, str], tmp_path: Path
) -> None:
    python, _ = client_only
    seen = probe(python, tmp_path)
    assert 'pip install "glimpse-serve[server]"' in seen["classifier"]
    assert "pip install ./src '.[server]'" in seen["classifier"]
    assert "glimpse.server is not installed" in seen["classifier"]
    # What every name of the package stands for is there all the same.
    run(python, "-I", "-W", "error", "-c", "from glimpse import *; Client", cwd=tmp_path)


def test_the_console_script_is_there(client_only: tuple[Path, str], tmp_path: Path) -> None:
    python, _ = client_only

    assert "classify" in run(python.with_name("glimpse"), "--help", cwd=tmp_path)


def names(wheel: Path) -> set[str]:
    """The files in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def sources(folder: str) -> set[str]:
    """The files of a folder that belong into a wheel."""
    listed = run("git", "ls-files", folder).split()
    return {f"glimpse/{name}" for name in listed}


def test_the_clients_wheel_holds_the_client_and_the_stubs_and_no_more(wheel: Path) -> None:
    stubs = {f"glimpse/v1/{name.rpartition('/')[2]}" for name in run("git", "ls-files", "proto/glimpse/v1").split()}
    assert names(wheel) == sources("client") | stubs | {"glimpse/__init__.py", "glimpse/py.typed"}
    assert wheel.stat().st_size < 250_000


def test_the_servers_wheel_holds_the_server_and_the_models_and_no_more(server_wheel: Path, wheel: Path) -> None:
    packed = names(server_wheel)
    assert packed == sources("server") | sources("models")
    assert packed.isdisjoint(names(wheel)), "A file of both would be lost when one of them is uninstalled."


@pytest.mark.ci
def test_in_an_environment_with_both_wheels_the_server_starts(wheel: Path, server_wheel: Path, tmp_path: Path) -> None:
    python = venv_with_packages_of_this_one(tmp_path)
    install(python, "--no-index", wheel, server_wheel)
    script = (
        "import glimpse.server, glimpse.models; print(glimpse.server.__file__, len(glimpse.models.architectures()));"
        "from glimpse import Classifier"
    )
    file, architectures = run(python, "-I", "-c", script, cwd=tmp_path).split()
    assert Path(file).is_relative_to(tmp_path)
    assert int(architectures) > 10
    assert "--model" in run(python.with_name("glimpse-server"), "--help", cwd=tmp_path)


def venv_with_packages_of_this_one(folder: Path) -> Path:
    """The Python of an environment that has the packages of this one, too, but not the checkout."""
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    ours = Path(sysconfig.get_path("purelib"))
    # Not by a .pth of the folder itself: that would read the .pth files in it, which lead to the checkout.
    for entry in ours.iterdir():
        if not entry.name.startswith(
            ("glimpse", "_glimpse", "_distutils", "distutils", "pip", "setuptools", "__pycache__")
        ):
            (site / entry.name).symlink_to(entry)
    return python


@pytest.mark.parametrize("lock", ["client", "server"])
def test_a_smaller_lock_agrees_with_the_lock_of_development(lock: str) -> None:
    assert versions(lock) <= versions("dev"), "Run `make lock`."


@pytest.mark.parametrize("lock", ["client", "client-oldest", "client-newest"])
def test_no_lock_of_the_client_names_a_framework(lock: str) -> None:
    names = {line.split("==")[0] for line in versions(lock)}
    assert names & {"grpcio", "protobuf"} == {"grpcio", "protobuf"}
    assert not names & {"keras", "numpy", "pillow", "tensorflow", "tensorflow-cpu", "torch", "jax"}


def versions(lock: str) -> set[str]:
    """Every `name==version ; marker` of a lock."""
    lines = (ROOT / "locks" / f"{lock}.txt").read_text().splitlines()
    return {line.rstrip(" \\") for line in lines if "==" in line and not line.startswith((" ", "#"))}
