"""The examples as their READMEs say, built in a copy of their own beside a copy of the contract."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RunningServer
from tests.server.access.authority import Authority
from tests.server.access.inside import entry

_BUILT = ROOT / ".cache" / "examples"
_CONTRACT = "proto/glimpse/v1/classifier.proto"
_PATIENCE = 280  # seconds; until a program is called hung
_GO_SOURCES = Path("/usr/share/gocode")
# The only token that `guarded` knows.
ALICE = "a"


@dataclass(frozen=True)
class Ended:
    """What a program said."""

    answers: dict[str, dict[str, Any]]  # by the path of the image
    trouble: str
    code: int


@dataclass(frozen=True)
class Example:
    """A client in another language, ready to run."""

    folder: Path
    command: tuple[str, ...]

    def classify(self, target: str, *paths: Path, **environment: str) -> Ended:
        """Run it against a server."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GLIMPSE_")}
        ended = subprocess.run(
            [*self.command, *map(str, paths)],
            cwd=self.folder,
            env={**inherited, "GLIMPSE_TARGET": target, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        answers = {line.pop("path"): line for line in lines}
        assert len(answers) == len(lines), f"an image was answered twice: {lines}"
        return Ended(answers, ended.stderr.strip(), ended.returncode)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("typescript", marks=pytest.mark.slow),  # npm installs its packages
        "ruby",
        pytest.param("go", marks=pytest.mark.slow),  # gRPC is compiled
    ],
)
def example(request: pytest.FixtureRequest) -> Example:
    """Each example, built."""
    return {"typescript": lambda: node_example("typescript"), "ruby": _ruby, "go": _go}[request.param]()


@dataclass(frozen=True)
class Guarded:
    """A server with TLS, which lets in `ALICE` alone."""

    target: str
    authorities: Path


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that lets in whom it knows."""
    folder, authority = tmp_path_factory.mktemp("guarded"), Authority()
    certificate, key = authority.server().write(folder)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "tokens.toml").write_text(entry("alice", ALICE))
    running = RunningServer(
        f"--tls-certificate={certificate}", f"--tls-key={key}", f"--tokens={folder / 'tokens.toml'}"
    )
    try:
        running.wait_for("serving")
        port = running.target.rpartition(":")[2]
        yield Guarded(f"localhost:{port}", folder / "ca.pem")  # by a name: Node.js warns where TLS goes to an address
    finally:
        running.close()


def node_example(name: str) -> Example:
    """An example for Node.js, with its packages."""
    _needs("node", "npm", package="Node.js 20 or later")
    folder = _copied(name)
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        _run(folder, "npm", "ci")
        shutil.copyfile(lock, installed)
    _run(folder, "npm", "run", "build")
    return Example(folder, ("node", "dist/classify.js"))


def _ruby() -> Example:
    _needs("ruby", "grpc_tools_ruby_protoc", package="Debian's ruby-grpc and ruby-grpc-tools")
    folder = _copied("ruby")
    (folder / "lib").mkdir(exist_ok=True)
    into = ("--ruby_out=lib", "--grpc_out=lib")
    _run(folder, "grpc_tools_ruby_protoc", "-I", "../../proto", *into, "glimpse/v1/classifier.proto")
    return Example(folder, ("ruby", "classify.rb"))


def _go() -> Example:
    """Built without modules, for which Go would have to download them: from the sources that Debian has."""
    _needs(
        *("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        package="Debian's golang-go, protobuf-compiler, protoc-gen-go and protoc-gen-go-grpc",
    )
    if not (_GO_SOURCES / "src" / "google.golang.org" / "grpc").exists():
        pytest.skip("gRPC for Go is not installed; it comes with Debian's golang-google-grpc-dev")
    folder = _copied("go")
    protobuf = _go_protobuf()
    both = [f"--go{kind}_{option}" for kind in ("", "-grpc") for option in ("out=.", "opt=module=glimpse")]
    _run(folder, "protoc", "-I", "../../proto", *both, "glimpse/v1/classifier.proto")
    # Packages are found as GOPATH/src/NAME.
    (folder / "path" / "src").mkdir(parents=True, exist_ok=True)
    own = folder / "path" / "src" / "glimpse"
    if not own.is_symlink():
        own.symlink_to(folder)
    path = os.pathsep.join(map(str, (folder / "path", protobuf, _GO_SOURCES)))
    chosen = {"GO111MODULE": "off", "GOPATH": path, "GOCACHE": str(folder / "path" / "cache"), "GOFLAGS": ""}
    _run(own, "go", "vet", ".", **chosen)
    _run(own, "go", "build", "-o", "classify", ".", **chosen)
    return Example(folder, ("./classify",))


def _go_protobuf() -> Path:
    """The protobuf for Go that today's generated code needs; Debian's gRPC asks for an older one in the same place."""
    package = "golang-github-golang-protobuf-1-5-dev"
    folder = _BUILT / "go-protobuf"
    sources = folder / "usr" / "share" / "gocode"
    if not sources.exists():
        _needs("apt-get", "dpkg", package=f"Debian, whose {package} is needed")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", package]
        ended = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        found = next(folder.glob(f"{package}_*.deb"), None)
        if ended.returncode or found is None:
            pytest.skip(f"Debian's {package} could not be downloaded")
        _run(folder, "dpkg", "-x", found.name, ".")
    return sources


def _needs(*programs: str, package: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed; it comes with {package}")


def _copied(name: str) -> Path:
    """The sources of an example and the contract, as they lie in the repository, outside of its tree."""
    folder = _BUILT / "examples" / name
    generated = shutil.ignore_patterns("node_modules", "dist", "generated", "lib", "v1", "go.sum")
    shutil.copytree(ROOT / "examples" / name, folder, ignore=generated, dirs_exist_ok=True)
    (_BUILT / _CONTRACT).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / _CONTRACT, _BUILT / _CONTRACT)
    return folder


def _run(folder: Path, *command: str, **environment: str) -> None:
    # A shell's PWD is where Go believes to be, beyond links.
    chosen = {**os.environ, "PWD": str(folder), **environment}
    ended = subprocess.run(
        command, cwd=folder, env=chosen, capture_output=True, text=True, check=False, timeout=_PATIENCE
    )
    assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}"
