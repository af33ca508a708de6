"""What PyTorch's exporters make of torchvision's networks answers here as it does in ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from tests.models.parity.reference import disturb_torch, torch_publisher

_NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "squeezenet1_1", "googlenet", "inception_v3")
_PROBABILITY = 1e-5  # largest difference


def _exported(name: str, folder: Path, *, new: bool) -> tuple[Path, NDArray[np.float32]]:
    """A network with weights in which a mistake would show, as a file, and images ``[N, H, W, 3]`` for it."""
    package = torch_publisher("torchvision")
    import torch

    if new:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs it")
    torch.manual_seed(0)
    auxiliary = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    model = getattr(package, name)(weights=None, **auxiliary)
    side = 299 if name == "inception_v3" else 224
    pixels = np.random.default_rng(1).standard_normal((1, side, side, 3), np.float32)
    image = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    disturb_torch(model, image)
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(model, (image,), str(path), dynamo=new)
        finally:
            logging.disable(logging.NOTSET)
    return path, pixels


def _softmax(logits: Any) -> NDArray[np.float32]:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.softmax(logits)))


@pytest.mark.slow
@pytest.mark.parametrize("new", [False, True], ids=["TorchScript", "dynamo"])
@pytest.mark.parametrize("name", _NETWORKS)
def test_an_exported_network_answers_as_onnx_runtime(name: str, new: bool, tmp_path: Path) -> None:  # noqa: FBT001
    runtime: Any = pytest.importorskip("onnxruntime", reason="the reference for ONNX files")
    path, pixels = _exported(name, tmp_path, new=new)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})
    row = find(name, "torchvision")
    model = assemble(row).model
    # Batch norm is folded, so that no names of its tensors are left.
    assert weights.load(model, path, row.layouts(), row=row) == "graph"
    ours, theirs = _softmax(model(pixels, training=False)), _softmax(expected)
    assert theirs.max() > 0.05
    assert np.abs(ours - theirs).max() < _PROBABILITY
