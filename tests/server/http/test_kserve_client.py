"""KServe's own Python clients, as they are, over HTTP in both versions and over gRPC."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glimpse.client import Client
from tests.conftest import CACHE, ROOT, RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.http.asking import MODEL

PROGRAM = Path(__file__).with_name("kserve_program.py")
_OWN = ROOT / ".cache" / "kserve-client" / "bin" / "python"

pytestmark = pytest.mark.ci


def python_with_kserve() -> str:
    """A Python that has KServe's clients; skips the test where there is none."""
    if importlib.util.find_spec("kserve") is not None:
        return sys.executable
    if not _OWN.exists():
        pytest.skip("kserve is not installed; CONTRIBUTING.md says how to have it in .cache/kserve-client")
    return str(_OWN)


def test_unmodified_clients_get_the_answers_that_all_get(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    """To the last bit, by both versions of the protocol over HTTP, in JSON and in binary, and over gRPC."""
    python = python_with_kserve()
    running = start_server(environment={"GLIMPSE_HTTP_PORT": "0", **CACHE})
    running.wait_for("serving")
    command = [python, str(PROGRAM), f"http://{running.http}", running.target, MODEL, str(cat_photo)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    with Client(running.target) as client:
        (best,) = client.classify(cat_photo, top_k=1).predictions
    assert "'400 Bad Request'" in found["v1"].pop("refused")
    same = {"label": best.label, "probability": best.probability}
    assert found == {
        "v1": {"live": True, "ready": True, **same},
        "v2": {
            "live": True,
            "server ready": True,
            "ready": True,
            "no model": False,
            "id": "mine",
            **{f"{name}, binary {binary}": value for name, value in same.items() for binary in (False, True)},
        },
        "grpc": {"live": True, "ready": True, "probability": best.probability},
    }
