"""A stub on the real server, and images for it."""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer

TIMEOUT = 60.0  # seconds; until a call is called hung, never the measure of a result


@pytest.fixture(scope="session")
def stub(server: RunningServer) -> Iterator[ImageClassifierStub]:
    """A stub on the shared server."""
    with grpc.insecure_channel(
        server.target, options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    ) as channel:
        yield ImageClassifierStub(channel)


@pytest.fixture(scope="session")
def picture() -> Callable[[int], pb.Image]:
    """Make a small PNG, another one for each seed."""

    def make(seed: int) -> pb.Image:
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return pb.Image(encoded=buffer.getvalue())

    return make


def rich_status(error: grpc.RpcError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    """The status details of a refused call, and the ErrorInfo in them."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None, "no grpc-status-details-bin"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info


# Of which most tests look at the sums of all models.
_MODELS = ("glimpse_batch", "glimpse_images_total", "glimpse_queue", "glimpse_requests")
_OF_MODEL = re.compile(r'(?:model|version)="[^"]*",?')


def metrics_of(server: RunningServer) -> dict[str, float]:
    """A server's metrics: ``name{label="value"}`` -> value; and for those of models their sums without these labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=TIMEOUT) as response:  # noqa: S310 - our own server
        lines = response.read().decode().splitlines()
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    sums: dict[str, float] = {}
    for name, value in found.items():
        if name.startswith(_MODELS):
            rest = _OF_MODEL.sub("", name).replace(",}", "}").replace("{}", "")
            sums[rest] = sums.get(rest, 0.0) + value
    return {**sums, **found}


@pytest.fixture(scope="session")
def scrape(server: RunningServer) -> Callable[[], dict[str, float]]:
    """Read the shared server's metrics."""
    return lambda: metrics_of(server)


@pytest.fixture
def in_flight(scrape: Callable[[], dict[str, float]]) -> Callable[[], float]:
    """How many images the shared server has between arrival and answer."""
    return lambda: scrape()["glimpse_images_in_flight"]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in a repository is complete, and its models may sleep at once."""
    monkeypatch.setattr("glimpse.server.repository.known._OLD_SECONDS", 0.0)
    monkeypatch.delenv("GLIMPSE_WEIGHTS", raising=False)
    monkeypatch.setattr("glimpse.server.repository.sleeping._PATIENCE", 0.0)
