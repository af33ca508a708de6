"""The floors hold when the program runs, too: what an import loads is looked up in a fresh interpreter.

Which module may import which is checked without running anything by import-linter, in `make check`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import glimpse
from glimpse import client

ROOT = Path(__file__).parent.parent


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `statement`, warnings being errors."""
    script = f"import sys\nsys.path[:0] = {[str(ROOT / 'src')]}\n{statement}\nprint(*sys.modules)"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    # Of other packages the name, of ours the part: glimpse.server.errors is glimpse.server.
    return {".".join(module.split(".")[: 2 if module.startswith("glimpse.") else 1]) for module in ended.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        pytest.param(
            "import glimpse; dir(glimpse)",
            {"tensorflow", "keras", "numpy", "grpc", "google", "glimpse.client", "glimpse.models", "glimpse.server"},
            id="the package itself loads nothing",
        ),
        pytest.param(
            "import glimpse.client",
            {"tensorflow", "keras", "numpy", "PIL", "glimpse.models", "glimpse.server"},
            id="the client loads no framework and nothing of the server",
        ),
        pytest.param(
            "import glimpse.client.cli",
            {"tensorflow", "keras", "numpy", "PIL", "glimpse.models", "glimpse.server", "grpc", "google"},
            id="the command line starts without gRPC",
        ),
        pytest.param(
            "import glimpse.models",
            {"tensorflow", "keras", "grpc", "google", "glimpse.v1", "glimpse.client", "glimpse.server"},
            id="the block library loads neither Keras nor gRPC before a model is built",
        ),
        pytest.param(
            "from glimpse import models; models.architectures()",
            {"tensorflow", "keras", "grpc"},
            id="the names of the architectures are had without Keras",
        ),
        pytest.param(
            "import glimpse.models.builder",
            {"grpc", "glimpse.v1", "glimpse.client", "glimpse.server"},
            id="building a model loads no gRPC of ours",
        ),
        pytest.param(
            "import glimpse.server.pipeline, glimpse.server.batching",
            {"tensorflow", "keras", "grpc", "glimpse.v1", "glimpse.client"},
            id="the pipeline and the batcher run without gRPC and without Keras",
        ),
        pytest.param(
            "import glimpse.server.service, glimpse.server.classify_stream",
            {"tensorflow", "keras", "grpc", "google", "glimpse.v1", "glimpse.client"},
            id="the service and its streams run without gRPC and protobuf",
        ),
        pytest.param(
            "from glimpse import Classifier",
            {"tensorflow", "keras", "grpc", "google", "glimpse.v1"},
            id="a classifier of one's own needs neither gRPC nor protobuf nor Keras",
        ),
        pytest.param(
            "import glimpse.server.app, glimpse.server.runtime.openvino\n"
            "assert {'openvino.tools.ovc', 'glimpse.models.weights.formats'}.isdisjoint(sys.modules)",
            {"tensorflow", "keras"},
            id="a server whose network is in its cache loads no converter",
        ),
        pytest.param(
            "from glimpse.v1 import classifier_pb2",
            {"grpc", "glimpse.client", "glimpse.models", "glimpse.server"},
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


def test_nothing_is_imported_by_the_name_of_its_folder() -> None:
    """A checkout has the folders `client`, `models` and `server` at the top, so that this would work by accident."""
    by_folder = re.compile(r"^\s*(from|import) (client|models|server)\b", re.MULTILINE)
    files = [
        file
        for folder in ("client", "models", "server", "tests", "tools", "docs")
        for file in (ROOT / folder).rglob("*.py")
    ]
    assert [file for file in files if by_folder.search(file.read_text("utf-8"))] == []


def test_no_test_s_name_is_longer_than_70_characters() -> None:
    """What does not fit into such a name stands in the docstring of the test."""
    definition = re.compile(r"^\s*(?:async )?def test_(\w+)", re.MULTILINE)
    files = (ROOT / "tests").rglob("*.py")
    names = {name for file in files for name in definition.findall(file.read_text("utf-8"))}
    assert "no_test_s_name_is_longer_than_70_characters" in names
    assert [name for name in names if len(name) > 70] == []


def test_the_package_names_all_that_the_client_has_to_offer() -> None:
    assert {*glimpse.__all__} == {*client.__all__, "__version__"}
    assert all(getattr(glimpse, name) is getattr(client, name) for name in client.__all__)
    with pytest.raises(AttributeError, match="glimpse"):
        glimpse.no_such_name  # noqa: B018 - that it is looked up is the point


@pytest.mark.parametrize("module", ["server", "glimpse.server"])
def test_the_server_starts_by_its_former_name_as_well(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"glimpse {glimpse.__version__}\n"
