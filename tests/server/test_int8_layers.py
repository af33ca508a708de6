"""Which layers a network keeps in float32 where the first int8 network changes too many answers, with NNCF itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models import bundle as bundles
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.spec import NetworkSummary, StageSummary
from glimpse.server.runtime import quantisation
from glimpse.server.runtime.openvino_graphs import write
from glimpse.server.runtime.openvino_library import core, openvino, ops
from glimpse.server.runtime.quantisation import Orders

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not quantisation.installed(), reason="nncf is not installed"),
]
BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)
DENSE, DEPTHWISE = "Convolution", "GroupConvolution"
KINDS = (DENSE, DENSE, DENSE, DEPTHWISE, DENSE, DENSE, DENSE)


def network() -> openvino.Model:
    """Seven convolutions, the fourth of them depthwise, and a dense layer."""
    random = np.random.default_rng(0)
    pixels = ops.parameter([-1, 8, 8, 3], np.uint8)
    x = ops.transpose(ops.convert(pixels, "f32"), [0, 3, 1, 2])
    for number, kind in enumerate(KINDS):
        shape = (8, 1, 1, 3, 3) if kind == DEPTHWISE else (8, 8 if number else 3, 3, 3)
        make: Any = ops.group_convolution if kind == DEPTHWISE else ops.convolution
        weights = random.normal(0, 0.1, shape).astype(np.float32)
        x = ops.relu(make(x, weights, [1, 1], [1, 1], [1, 1], [1, 1], name=f"layer{number}"))
    x = ops.reduce_mean(x, [2, 3])
    logits = ops.matmul(x, random.normal(0, 0.1, (8, 5)).astype(np.float32), False, False, name="dense")  # noqa: FBT003
    logits.output(0).set_names({LOGITS})
    probabilities = ops.softmax(logits, 1)
    probabilities.output(0).set_names({PROBABILITIES})
    return openvino.Model([logits, probabilities], [pixels])


def quantised(folder: Path, *, careful: bool) -> dict[str, bool]:
    """By the names of the layers, whether each takes whole numbers."""
    from glimpse.server.runtime.quantising import quantise

    graph = write(network(), folder)
    stage = StageSummary("all", "any", 1, (5,), 1, 10**9)
    summary = NetworkSummary(paper="", stages=(stage,), parameters=1, trainable_parameters=1)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), np.uint8)
    out = folder / "int8"
    out.mkdir()
    assert quantise(Orders(BUNDLE, graph, summary, pixels, careful), out) == summary
    found = {}
    for layer in core().read_model(out / "network.xml").get_ordered_ops():
        if layer.get_type_name() in {*KINDS, "MatMul"}:
            source = layer.input_value(0).get_node()
            while source.get_type_name() in {"Transpose", "Convert"}:
                source = source.input_value(0).get_node()
            found[layer.get_friendly_name()] = source.get_type_name() == "FakeQuantize"
    return found


def test_a_large_network_s_first_and_depthwise_layers_stay_in_float32(tmp_path: Path) -> None:
    found = quantised(tmp_path, careful=True)
    assert [name for name, whole in found.items() if not whole] == ["layer0", "layer1", "layer3"]


def test_without_care_all_layers_take_whole_numbers(tmp_path: Path) -> None:
    assert all(quantised(tmp_path, careful=False).values())
