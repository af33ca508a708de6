"""Another geometry than the model's own, for one request."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from glimpse.models.prestem.recipe import Recipe
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, rich_status

# Wide, and dark but for its left third: what the network sees differs with the geometry.
WIDE = np.zeros((40, 120, 3), np.uint8)
WIDE[:, :40] = np.random.default_rng(7).integers(0, 255, (40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def allowing() -> Iterator[ImageClassifierStub]:
    """A stub on a server that allows two geometries."""
    running = RunningServer(environment={"GLIMPSE_ALLOW_GEOMETRIES": "squash,letterbox"})
    try:
        running.wait_for("serving")
        with grpc.insecure_channel(running.target) as channel:
            yield ImageClassifierStub(channel)
    finally:
        running.close()


def request(geometry: str) -> pb.ClassifyRequest:
    raw = pb.RawPixels(height=WIDE.shape[0], width=WIDE.shape[1], data=WIDE.tobytes())
    return pb.ClassifyRequest(images=[pb.Image(raw=raw)], options=pb.ClassifyOptions(geometry=geometry, top_k=10))


def test_a_request_gets_the_geometry_that_it_asks_for(allowing: ImageClassifierStub) -> None:
    seen = {}
    for geometry in ("", "squash", "letterbox"):
        predictions = allowing.Classify(request(geometry), timeout=TIMEOUT).results[0].predictions
        seen[geometry] = tuple((p.index, round(p.probability, 4)) for p in predictions)
    assert len(set(seen.values())) == 3, f"the geometry made no difference: {seen}"


def test_what_the_server_allows_stands_in_the_description(allowing: ImageClassifierStub) -> None:
    limits = allowing.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT).limits
    assert list(limits.geometries) == ["letterbox", "squash"]


@pytest.mark.parametrize("geometry", ["crop", "stretch"])
def test_a_geometry_that_is_not_allowed_is_refused(allowing: ImageClassifierStub, geometry: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        allowing.Classify(request(geometry), timeout=TIMEOUT)
    status, info = rich_status(refused.value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "GEOMETRY_NOT_ALLOWED"
    assert "letterbox, squash" in status.message
    assert geometry in status.message


def test_only_the_model_s_own_is_allowed_unless_the_server_says_otherwise(stub: ImageClassifierStub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Classify(request("letterbox"), timeout=TIMEOUT)
    assert "because GLIMPSE_ALLOW_GEOMETRIES is not set" in rich_status(refused.value)[0].message
    description = stub.DescribeModel(pb.DescribeModelRequest(), timeout=TIMEOUT)
    assert not description.limits.geometries
    recipe = Recipe(height=32, width=32)
    assert description.pre_stem.geometry == recipe.geometry
