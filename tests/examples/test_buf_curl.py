"""`buf curl`, which is no relation of grpcio's and knows nothing of the service but its reflection."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glimpse.client import Client
from tests.conftest import RunningServer

_BUF = Path(sys.executable).with_name("buf")
_PATIENCE = 60.0  # seconds


def curl(
    server: RunningServer, folder: Path, method: str, request: Any, reflection: str
) -> subprocess.CompletedProcess[str]:
    """Call a method with a request as JSON, of which the photo makes more than a command line may hold."""
    if not _BUF.exists():
        pytest.skip("buf is not installed beside Python; `make test` brings it")
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    return subprocess.run(
        [
            *(_BUF, "curl", "--protocol", "grpc", "--reflect-protocol", reflection, "-d", f"@{path}"),
            f"http://{server.target}/glimpse.v1.ImageClassifier/{method}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )


@pytest.mark.parametrize("reflection", ["grpc-v1", "grpc-v1alpha"])
def test_a_photo_is_classified_by_reflection_alone(
    server: RunningServer, cat_photo: Path, tmp_path: Path, reflection: str
) -> None:
    request = {"images": [{"encoded": base64.b64encode(cat_photo.read_bytes()).decode()}]}
    ended = curl(server, tmp_path, "Classify", request, reflection)
    assert ended.returncode == 0, ended.stderr
    (result,) = json.loads(ended.stdout)["results"]
    with Client(server.target) as client:
        expected = client.classify(cat_photo).predictions
    # JSON leaves out an index of 0.
    assert [(each["label"], each.get("index", 0)) for each in result["predictions"]] == [
        (each.label, each.index) for each in expected
    ]


def test_a_refusal_comes_with_its_details(server: RunningServer, tmp_path: Path) -> None:
    ended = curl(server, tmp_path, "DescribeModel", {"model": {"name": "nothing"}}, "grpc-v1")
    assert ended.returncode != 0
    refused = json.loads(ended.stderr)
    assert refused["code"] == "not_found"
    assert [each["type"] for each in refused["details"]] == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]


def test_the_methods_of_all_services_are_listed(server: RunningServer) -> None:
    if not _BUF.exists():
        pytest.skip("buf is not installed beside Python; `make test` brings it")
    ended = subprocess.run(
        [_BUF, "curl", "--protocol", "grpc", "--list-methods", f"http://{server.target}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert {"glimpse.v1.ImageClassifier/Classify", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} <= set(
        ended.stdout.split()
    )
