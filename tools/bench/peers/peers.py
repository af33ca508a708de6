"""The peers as plain data: what is installed for each, how it is asked, and the knobs that it is run with.

To find a machine's own: `python -m tools.bench.peers --workers 1,2 --threads 1,2 --wait-ms 0,5 --max-batch 1,8` tries
every combination of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["http", "http-form", "v2-grpc", "glimpse"]
Runtime = Literal["onnxruntime", "openvino"]

# Every peer has the same runtimes and the same decoder.
_SHARED = ("onnxruntime==1.31.1", "openvino==2026.4.1", "pillow==13.0.0")
_NUMPY = "numpy==2.4.6"
# The generator of the load, in an environment of its own. tritonclient: the stubs of the Open Inference Protocol, which
# MLServer and Triton speak.
CALLER = ("aiohttp==3.14.5", "uvloop==0.22.1", "grpcio==1.85.1", "tritonclient[grpc]==2.73.0")

# What writes the networks' files: the library with its Keras, the way from TensorFlow to ONNX, and the one to int8.
EXPORT = (
    *_SHARED,
    _NUMPY,
    "filelock==4.2.11",
    "h5py==3.14.0",
    "keras==3.15.1",
    "nncf==3.4.0",
    "onnx==1.23.2",
    "safetensors==0.8.0",
    "tensorflow-cpu==2.21.0",
    "tf2onnx==1.17.0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server, and the way in which its users would run it on two cores."""

    name: str
    package: str  # pinned: another release is another benchmark; empty: it runs in this very environment
    numpy: str = _NUMPY
    beside: tuple[str, ...] = ()  # what else has to be of a certain version
    protocol: Protocol
    workers: int  # processes that compute; of KServe and Triton, instances in one process
    threads: int  # of the runtime and of the decoder, in each
    wait_ms: float  # how long a batch may wait for company
    max_batch: int = 8  # images of a batch; larger ones gain nothing on two cores, and their callers wait for all of it
    path: str = "/"  # of an HTTP request
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino")

    @property
    def packages(self) -> tuple[str, ...]:
        """All that its environment needs."""
        return (self.package, self.numpy, *self.beside, *_SHARED) if self.package else ()


PEERS = (
    # The service itself, under the same callers; it has no knobs to turn.
    Peer(name="glimpse", package="", protocol="glimpse", workers=1, threads=2, wait_ms=0, runtimes=("openvino",)),
    Peer(
        name="litserve",
        package="litserve==0.2.19",
        protocol="http",
        workers=2,
        threads=1,
        wait_ms=5,
        path="/predict",
    ),
    Peer(
        name="mlserver",
        package="mlserver==1.7.1",
        beside=("uvloop==0.21.0",),  # its workers do not start with a newer one
        protocol="v2-grpc",
        workers=1,
        threads=2,
        wait_ms=5,
    ),
    Peer(
        name="ray",
        package="ray[serve]==2.60.0",
        protocol="http",
        workers=1,
        threads=2,
        wait_ms=5,
    ),
    Peer(
        name="bento",
        package="bentoml==1.4.39",  # 1.4.40 asks for a certifi that was not published
        protocol="http-form",
        workers=1,
        threads=2,
        wait_ms=60_000,
        path="/classify",
    ),
    Peer(
        name="kserve",
        package="kserve==0.21.0",
        protocol="v2-grpc",
        workers=2,
        threads=1,
        wait_ms=0,
        max_batch=1,
    ),
    Peer(
        name="triton",
        package="nvidia-pytriton==0.7.0",
        numpy="numpy==1.26.4",  # it refuses the second
        protocol="v2-grpc",
        workers=2,
        threads=1,
        wait_ms=5,
    ),
)


def find(name: str) -> Peer:
    """The peer of that name.

    Raises:
        ValueError: there is none.
    """
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise ValueError(f"No peer is called {name!r}. There are {', '.join(peer.name for peer in PEERS)}.")
