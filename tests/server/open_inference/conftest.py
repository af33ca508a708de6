"""The shared server, called by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as glimpse_pb
from tests.conftest import RunningServer
from tests.server.open_inference.caller import OpenInferenceCaller


@pytest.fixture(scope="session")
def caller(server: RunningServer) -> Iterator[OpenInferenceCaller]:
    """A caller of the shared server."""
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield OpenInferenceCaller(channel)


@pytest.fixture(scope="session")
def file(picture: Callable[[int], glimpse_pb.Image]) -> Callable[[int], bytes]:
    """Make the bytes of a small PNG, another one for each seed."""
    return lambda seed: picture(seed).encoded
