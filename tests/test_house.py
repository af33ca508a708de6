"""The floors hold when the program runs, too: what an import loads is looked up in a fresh interpreter.

Which module may import which is checked without running anything by import-linter, in `make check`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `statement`, warnings being errors."""
    script = f"import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'proto')]}\n{statement}\nprint(*sys.modules)"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return {module.split(".")[0] for module in ended.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        pytest.param(
            "import client",
            {"tensorflow", "keras", "numpy", "PIL", "models", "server"},
            id="the client loads no framework and nothing of the server",
        ),
        pytest.param(
            "import client.cli",
            {"tensorflow", "keras", "numpy", "PIL", "models", "server", "grpc", "google"},
            id="the command line starts without gRPC",
        ),
        pytest.param(
            "import models",
            {"tensorflow", "keras", "grpc", "google", "glimpse", "client", "server"},
            id="the block library loads neither Keras nor gRPC before a model is built",
        ),
        pytest.param(
            "import models; models.architectures()",
            {"tensorflow", "keras", "grpc"},
            id="the names of the architectures are had without Keras",
        ),
        pytest.param(
            "import models.builder",
            {"grpc", "glimpse", "client", "server"},
            id="building a model loads no gRPC of ours",
        ),
        pytest.param(
            "import server.pipeline, server.batching",
            {"tensorflow", "keras", "grpc", "glimpse", "client"},
            id="the pipeline and the batcher run without gRPC and without Keras",
        ),
        pytest.param(
            "from glimpse.v1 import classifier_pb2",
            {"grpc", "client", "models", "server"},
            id="the messages load without gRPC",
        ),
    ],
)
def test_an_import_loads_only_what_its_floor_allows(statement: str, unwanted: set[str]) -> None:
    assert loaded_by(statement).isdisjoint(unwanted)


def test_the_look_up_sees_what_is_loaded() -> None:
    assert "grpc" in loaded_by("import grpc")
    assert "grpc" not in loaded_by("pass")


def test_no_folder_named_proto_is_a_python_package() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()
