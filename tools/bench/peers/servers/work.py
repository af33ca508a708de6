"""What every peer does with a photo: the same decoder and the same network. It knows nothing of Glimpse.

It runs in the peers' own environments.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VARIABLE = "GLIMPSE_BENCH_OPTIONS"
_SIZE = 224  # of the network's input
_SHORT = 256  # of the photo's short side before the centre is cut out
_TOP = 5

Pixels = NDArray[np.uint8]
Answer = dict[str, list[Any]]  # ready for JSON: "classes" and their "probabilities", best first


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a peer is run; it travels as JSON in the environment, which workers of every peer inherit."""

    network: str  # path without suffix: `.onnx` and `.xml` are there
    runtime: str  # "onnxruntime" or "openvino"
    precision: str  # that the runtime may compute in, "f32" or "bf16"; "int8": of the quantised network
    port: int
    max_batch: int
    wait_ms: float  # how long a batch may wait for company
    workers: int
    threads: int  # of the runtime and of the decoder, in each worker

    @classmethod
    def read(cls) -> Options:
        """Those of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))


def quantised(network: Path) -> Path:
    """Where the int8 files of a network are, from its path without suffix."""
    return network.with_suffix(".int8") / "model.xml"


def decode(photo: bytes | Image.Image) -> Pixels:
    """JPEG -> uint8 ``[224, 224, 3]``: the short side to 256, then the centre, as torchvision's users write it.

    Where a peer opens photos itself, it is their header that has been read; the pixels are decoded here.
    """
    image = (Image.open(io.BytesIO(photo)) if isinstance(photo, bytes) else photo).convert("RGB")
    scale = _SHORT / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - _SIZE) // 2, (height - _SIZE) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + _SIZE, top + _SIZE)), np.uint8)


class Network:
    """A network of uint8 ``[N, 224, 224, 3]``, warm for every batch size."""

    def __init__(self, options: Options) -> None:
        """Load it into the runtime that the options name."""
        make = {"onnxruntime": _onnxruntime, "openvino": _openvino}[options.runtime]
        self._compute = make(Path(options.network), options)
        for size in range(1, options.max_batch + 1):
            self._compute(np.zeros((size, _SIZE, _SIZE, 3), np.uint8))

    def probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """float32 ``[N, classes]``."""
        return self._compute(pixels)

    def top(self, pixels: Pixels) -> list[Answer]:
        """An image's best classes and their probabilities, best first."""
        scores = self._compute(pixels)
        classes = np.argsort(scores, axis=1)[:, : -_TOP - 1 : -1]
        best = np.take_along_axis(scores, classes, axis=1)
        return [{"classes": c.tolist(), "probabilities": p.tolist()} for c, p in zip(classes, best, strict=True)]


class Classifier:
    """JPEG files to answers; the files of a batch are decoded side by side.

    Where a peer hands out batches from several threads, one is computed at a time, while others are decoded.
    """

    def __init__(self, options: Options) -> None:
        """Load the network."""
        self.network = Network(options)
        self._decoders = ThreadPoolExecutor(options.threads)
        self._turn = threading.Lock()

    def __call__(self, photos: Sequence[bytes | Image.Image]) -> list[Answer]:
        """An answer for each photo."""
        # One photo is decoded where it is: another thread would only cost time.
        decoded = map(decode, photos) if len(photos) == 1 else self._decoders.map(decode, photos)
        pixels = np.stack(list(decoded))
        with self._turn:
            return self.network.top(pixels)


def _onnxruntime(network: Path, options: Options) -> Callable[[Pixels], NDArray[np.float32]]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.with_suffix(".onnx"), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _openvino(network: Path, options: Options) -> Callable[[Pixels], NDArray[np.float32]]:
    import openvino

    in_int8 = options.precision == "int8"
    compiled = openvino.compile_model(
        quantised(network) if in_int8 else network.with_suffix(".xml"),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.threads,
            "INFERENCE_PRECISION_HINT": "f32" if in_int8 else options.precision,
        },
    )
    request = compiled.create_infer_request()

    def compute(pixels: Pixels) -> NDArray[np.float32]:
        return request.infer(pixels, share_inputs=True)[0].copy()

    return compute
