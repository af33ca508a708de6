"""A server that decodes in processes of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.conftest import TIMEOUT, metrics_of


def decoders_of(server: RunningServer) -> set[int]:
    """The numbers of its decoder processes."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if parent == server.process.pid and b"glimpse.server.decoding.worker" in command:
            found.add(int(entry.name))
    return found


def labels(stub: ImageClassifierStub, *images: pb.Image) -> list[str]:
    results = stub.Classify(pb.ClassifyRequest(images=images), timeout=TIMEOUT).results
    return [str(result.error.reason or result.predictions[0].label) for result in results]


@pytest.fixture
def isolating(start_server: Callable[..., RunningServer]) -> Iterator[RunningServer]:
    running = start_server("--decode-in=processes", "--decode-threads=2")
    running.wait_for("serving")
    yield running
    running.terminate()
    assert running.exit_code() == 0
    assert not decoders_of(running)


def test_a_decoder_that_is_killed_is_replaced_and_nobody_notices(isolating: RunningServer, cat_photo: Path) -> None:
    cat = pb.Image(encoded=cat_photo.read_bytes())
    with grpc.insecure_channel(isolating.target) as channel:
        stub = ImageClassifierStub(channel)
        assert labels(stub, cat, pb.Image(encoded=b"no image")) == ["cat", "NOT_AN_IMAGE"]
        first = decoders_of(isolating)
        assert len(first) == 2
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + TIMEOUT
        while metrics_of(isolating)["glimpse_decoder_restarts_total"] < 2:
            # One that dies with nothing to do costs no image; one that dies with an image in it fails that one.
            assert set(labels(stub, *[cat] * 8)) <= {"cat", "DECODER_FAILED"}
            assert time.monotonic() < end, "the decoders were not replaced"
        assert labels(stub, cat) == ["cat"]
        assert not decoders_of(isolating) & first


def test_raw_pixels_are_classified_too(isolating: RunningServer) -> None:
    raw = pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3))
    large = pb.RawPixels(height=64, width=48, data=bytes(64 * 48 * 3))
    with grpc.insecure_channel(isolating.target) as channel:
        assert all(
            label.isalpha() for label in labels(ImageClassifierStub(channel), pb.Image(raw=raw), pb.Image(raw=large))
        )
