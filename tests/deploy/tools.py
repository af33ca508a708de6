"""The checkers of manifests, and what they see: the overlays, rendered by Kubernetes' own tool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent.name for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))
_PLACES = (ROOT / ".cache" / "deploy" / "bin", ROOT / ".cache" / "tools" / "usr" / "bin")

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """Where a program is; skips the test that needs it where it is not."""
    path = os.pathsep.join([*map(str, _PLACES), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed; `make check-deploy` brings it, or says where it comes from")
    return found


def run(*command: str, folder: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says."""
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, check=False, timeout=280)


def parse(text: str) -> list[Manifest]:
    """The documents of a YAML text. The tools' own environment has a parser; the project needs none."""
    script = "import json, sys, yaml; json.dump([each for each in yaml.safe_load_all(sys.stdin) if each], sys.stdout)"
    ended = run(tool("kubernetes-validate").replace("kubernetes-validate", "python"), "-c", script, stdin=text)
    assert ended.returncode == 0, ended.stderr
    documents: list[Manifest] = json.loads(ended.stdout)
    return documents


@cache
def rendered(overlay: str) -> str:
    """An overlay as it would be applied."""
    ended = run(tool("kubectl"), "kustomize", str(DEPLOY / "overlays" / overlay))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    """The objects of an overlay."""
    return tuple(parse(rendered(overlay)))


def one(overlay: str, kind: str) -> Manifest:
    """The only object of its kind."""
    (found,) = [each for each in manifests(overlay) if each["kind"] == kind]
    return found


def pod(overlay: str) -> Manifest:
    """The pod's specification."""
    specification: Manifest = one(overlay, "Deployment")["spec"]["template"]["spec"]
    return specification


def server(overlay: str) -> Manifest:
    """The server's container."""
    (found,) = [each for each in pod(overlay)["containers"] if each["name"] == "glimpse"]
    container: Manifest = found
    return container
