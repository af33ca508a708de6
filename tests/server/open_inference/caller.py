"""A client of the Open Inference Protocol made of the server's own messages, which are in a pool of their own."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from glimpse.server.batching.batcher import Batcher
from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.servicer import SERVICE, SERVICE_DESCRIPTOR
from tests.server.conftest import TIMEOUT
from tests.server.rig import Rig

MODEL = "se_resnet20_cifar10"
PIXELS = f"{MODEL}.pixels"


def prefixed(*elements: bytes) -> bytes:
    """Elements of a tensor of BYTES in the raw representation."""
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def photos(*files: bytes, shape: Sequence[int] | None = None, **fields: Any) -> pb.ModelInferRequest:
    """A request with photos as raw contents."""
    request = pb.ModelInferRequest(**{"model_name": MODEL, "raw_input_contents": [prefixed(*files)], **fields})
    request.inputs.add(name="image", datatype="BYTES", shape=[len(files)] if shape is None else shape)
    return request


def typed(*files: bytes, **fields: Any) -> pb.ModelInferRequest:
    """A request with photos as typed contents."""
    request = pb.ModelInferRequest(**{"model_name": MODEL, **fields})
    request.inputs.add(name="image", datatype="BYTES", shape=[len(files)]).contents.bytes_contents.extend(files)
    return request


def pixels(array: NDArray[np.uint8], **fields: Any) -> pb.ModelInferRequest:
    """A request with pixels ``[N, H, W, C]`` as raw contents."""
    request = pb.ModelInferRequest(**{"model_name": PIXELS, "raw_input_contents": [array.tobytes()], **fields})
    request.inputs.add(name="pixels", datatype="UINT8", shape=array.shape)
    return request


def numbers(response: pb.ModelInferResponse, output: int = 0) -> NDArray[np.float32]:
    """An output of FP32."""
    told = response.outputs[output]
    assert told.datatype == "FP32"
    return np.frombuffer(response.raw_output_contents[output], "<f4").reshape(told.shape)


def texts(response: pb.ModelInferResponse, output: int = 0) -> list[str]:
    """An output of BYTES, row by row."""
    told, raw = response.outputs[output], response.raw_output_contents[output]
    assert told.datatype == "BYTES"
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    assert len(found) == np.prod(told.shape)
    return found


def occupy(rig: Rig, begin: Callable[[], object]) -> int:
    """Begin two requests of one image each, whose network is held: one computes, one is next. Others then wait.

    The rig needs batches of one image.
    """
    (model,) = rig.server._registry
    batcher = model.batcher
    assert isinstance(batcher, Batcher)
    begin()
    rig.network.begun()
    begin()
    rig.wait_until(lambda: batcher._composer.staged)
    return 2


class OpenInferenceCaller:
    """Calls every method by its name."""

    def __init__(self, channel: grpc.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._methods = {}
        self._metadata = metadata
        for method in SERVICE_DESCRIPTOR.methods:
            make: Any = channel.stream_stream if method.client_streaming else channel.unary_unary
            serialize = getattr(pb, method.input_type.name).SerializeToString
            parse = getattr(pb, method.output_type.name).FromString
            self._methods[method.name] = make(f"/{SERVICE}/{method.name}", serialize, parse)

    def infer(self, request: pb.ModelInferRequest, timeout: float = TIMEOUT) -> pb.ModelInferResponse:
        """The answer to one request."""
        response: pb.ModelInferResponse = self.call("ModelInfer", request, timeout)
        assert len(response.outputs) == len(response.raw_output_contents)
        return response

    def stream(self, requests: Iterable[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        """The answers to a stream."""
        answers: Iterator[pb.ModelStreamInferResponse] = self.call("ModelStreamInfer", iter(requests))
        return answers

    def call(self, method: str, request: Any, timeout: float = TIMEOUT) -> Any:
        """Whatever a method answers."""
        return self._methods[method](request, timeout=timeout, metadata=self._metadata)
