"""The Open Inference Protocol where there is no model yet, and where it is switched off."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from glimpse.server.open_inference import open_inference_pb2 as pb
from tests.server.access.inside import Inside
from tests.server.conftest import rich_status
from tests.server.open_inference.caller import OpenInferenceCaller, photos


def test_a_server_that_loads_lives_but_is_not_ready(inside: Callable[..., Inside]) -> None:
    started = inside()
    with grpc.insecure_channel(started.target) as channel:
        caller = OpenInferenceCaller(channel)
        assert caller.call("ServerLive", pb.ServerLiveRequest()).live
        assert not caller.call("ServerReady", pb.ServerReadyRequest()).ready
        assert not caller.call("ModelReady", pb.ModelReadyRequest(name="any")).ready
        with pytest.raises(grpc.RpcError) as refused:
            caller.infer(photos(b"x"))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert rich_status(refused.value)[1].reason == "NOT_READY"


def test_the_protocol_can_be_switched_off(inside: Callable[..., Inside]) -> None:
    started = inside(open_inference=False)
    with grpc.insecure_channel(started.target) as channel, pytest.raises(grpc.RpcError) as refused:
        OpenInferenceCaller(channel).call("ServerLive", pb.ServerLiveRequest())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
