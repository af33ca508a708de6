"""Triton's own Python client, as it is, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from glimpse.server.open_inference import open_inference_pb2
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT
from tests.server.open_inference.caller import MODEL, PIXELS
from tests.variations import with_two_workers_too

PROGRAM = Path(__file__).with_name("triton.py")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="tritonclient is not installed; `make test` installs it"
)


def told(server: RunningServer, photo: Path) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), server.target, MODEL, str(photo), "32"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_an_unmodified_client_gets_the_answers_that_all_get(
    server: RunningServer, stub: ImageClassifierStub, cat_photo: Path
) -> None:
    found = told(server, cat_photo)
    assert found["live"]
    assert found["ready"]
    assert "statistics" in found["extensions"]
    assert found["index"] == [MODEL, PIXELS]
    assert found["batch"] == 64
    request = pb.ClassifyRequest(images=[pb.Image(encoded=cat_photo.read_bytes())], options={"top_k": 10})
    predictions = stub.Classify(request, timeout=TIMEOUT).results[0].predictions
    assert found["probabilities"] == [p.probability for p in sorted(predictions, key=lambda p: p.index)]
    assert {found[each] for each in ("label", "pixels", "top_k", "compressed")} == {"cat"}
    assert found["answered"] >= 4
    assert found["bad photo"] == "StatusCode.INVALID_ARGUMENT"
    assert found["no model"] == "StatusCode.NOT_FOUND"
    assert found["stream"] == ["cat", "These 8 byte", "cat"]
    assert found["aio"] == ["cat"] * 4
    assert found["ids"] == ["0", "1", "2", "3"]


@with_two_workers_too
def test_an_unmodified_client_is_served_by_workers_too(
    start_server: Callable[..., RunningServer], cat_photo: Path
) -> None:
    running = start_server()
    running.wait_for("serving")
    found = told(running, cat_photo)
    assert (found["label"], found["stream"][::2], found["aio"]) == ("cat", ["cat"] * 2, ["cat"] * 4)


def test_every_message_has_the_names_and_numbers_of_that_client() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _COMPARE],
        input=descriptor(),
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    compared, *unlike = run.stdout.decode().splitlines()
    assert int(compared) > 100
    assert unlike == []


def descriptor() -> bytes:
    file = descriptor_pb2.FileDescriptorProto()
    open_inference_pb2.DESCRIPTOR.CopyToProto(file)
    content: bytes = file.SerializeToString()
    return content


_COMPARE = """
import sys
from google.protobuf import descriptor_pool
from tritonclient.grpc import service_pb2

ours, theirs, found = descriptor_pool.DescriptorPool(), descriptor_pool.Default(), []

def look(message):
    other = theirs.FindMessageTypeByName(message.full_name)
    for field in message.fields:
        same = other.fields_by_number.get(field.number)
        like = same is not None and (same.name, same.type, same.is_repeated)
        found.append((field.full_name, like == (field.name, field.type, field.is_repeated)))
    for inside in message.nested_types:
        look(inside)

file = ours.AddSerializedFile(sys.stdin.buffer.read())
for message in file.message_types_by_name.values():
    look(message)
for method in file.services_by_name["GRPCInferenceService"].methods:
    other = theirs.FindServiceByName("inference.GRPCInferenceService").FindMethodByName(method.name)
    like = [(each.input_type.full_name, each.output_type.full_name) for each in (method, other)]
    found.append((method.full_name, like[0] == like[1]))
print(len(found), *[name for name, like in found if not like], sep="\\n")
"""
