"""The PyTorch runtime: a traced program with the answers of Keras' layers, in a process where Keras is on PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT

PARITY = """
import json
from glimpse.server.runtime import selection
selection.choose("torch")
import numpy as np, structlog, torch
from glimpse.models import sources
from glimpse.models.outputs import CLASS_MAPS, EMBEDDING, FEATURE_STATISTICS, LOGITS, PROBABILITIES
from glimpse.models.serving import load_bundle, serving_outputs, by_name
from glimpse.server.runtime.torch import TorchRuntime
bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
layer = bundle.statistics_layer
model = serving_outputs(load_bundle(bundle), bundle.recipe, bundle.temperature, statistics=layer)
with structlog.testing.capture_logs() as logs:
    runtime = TorchRuntime(model, "float32")
assert [line["event"] for line in logs] == ["network traced"], logs
assert isinstance(runtime._program, torch.jit.ScriptModule)
assert runtime.streams == 1
for size in (1, 2, 7, 32):
    pixels = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
    found = runtime(pixels, runtime.outputs)
    with torch.no_grad():
        expected = by_name(model, model(torch.from_numpy(pixels), training=False))
    np.testing.assert_allclose(found[PROBABILITIES], expected[PROBABILITIES].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[LOGITS], expected[LOGITS].numpy(), atol=1e-3)
    np.testing.assert_allclose(found[EMBEDDING], expected[EMBEDDING].numpy(), atol=1e-4)
    np.testing.assert_allclose(found[FEATURE_STATISTICS], expected[FEATURE_STATISTICS].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[CLASS_MAPS][..., 1:].mean(axis=-1), -np.sort(-found[LOGITS]), atol=1e-3)
    kept = found[PROBABILITIES].copy()
    runtime(255 - pixels)
    np.testing.assert_array_equal(found[PROBABILITIES], kept)
assert runtime.out_of_memory(RuntimeError("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB."))
assert not runtime.out_of_memory(RuntimeError("another defect"))
print("equal")
"""

# Serves a model as a start does, and says whether Keras was imported for it and what it answers.
KEPT = """
import json, sys
from glimpse.server.runtime import selection
selection.choose("torch")
import numpy as np
from glimpse.models import sources
from glimpse.server.runtime import golden_check, importing, serving
from glimpse.server.runtimes import RUNTIMES
bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
imported = importing.import_model(bundle, RUNTIMES["torch"])
runtime = serving.serve(imported, golden_check.load(bundle, "require"), precision="PRECISION", largest=2).runtime
pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
answers = {name: values.tolist() for name, values in sorted(runtime(pixels, runtime.outputs).items())}
print(json.dumps([runtime.precision, "keras" in sys.modules, answers]))
"""

# Normalisations behind convolutions of both kinds, in front of them, and behind a sum of branches; each with statistics
# of its own, so that leaving one out would be seen.
FOLDED = """
import sys
from dataclasses import replace
from glimpse.server.runtime import selection
selection.choose("torch")
import keras, numpy as np, torch
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import by_name, serving_outputs
from glimpse.models.outputs import LOGITS
from glimpse.server.runtime import torch_layers
from glimpse.server.runtime.torch_program import trace
from glimpse.server.runtimes import PRECISIONS
rows = {
    "convolutions": (find("se_resnet20", "cifar"), 1.0),
    "depthwise": (replace(find("mobilenet", "keras"), alpha=0.25), 1.0),
    "in front": (replace(find("densenet121", "keras"), depths=(2, 2)), 0.2),
}
for name, (row, share) in rows.items():
    assembly = assemble(row, classes=4, input_shape=(32, 32, 3))
    random = np.random.default_rng(1)
    for weight in assembly.model.weights:
        if any(each in weight.path for each in ("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif any(each in weight.path for each in ("beta", "bias", "moving_mean")):
            weight.assign(random.normal(0, 0.2, weight.shape))
    model = serving_outputs(assembly, Recipe(height=32, width=32), 1.5)
    before = [weight.copy() for weight in model.get_weights()]
    pixels = torch.from_numpy(random.integers(0, 256, (5, 32, 32, 3), np.uint8))
    with torch.no_grad():
        expected = by_name(model, model(pixels, training=False))[LOGITS]
    count = sum(isinstance(each, keras.layers.BatchNormalization) for each in assembly.model.layers)
    with torch_layers.for_inference(model) as folded:
        pass
    assert folded >= share * count > 0, (name, folded, count)
    program = trace(model, torch.device("cpu"), PRECISIONS["float32"]).program
    with torch.no_grad():
        found = dict(zip(model.output_names, program(pixels)))[LOGITS]
        again = by_name(model, model(pixels, training=False))[LOGITS]
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(expected.abs().max()))
    np.testing.assert_array_equal(again, expected)  # the layers compute as before
    assert all(map(np.array_equal, before, model.get_weights()))
    kinds = {node.kind() for node in program.graph.nodes()}
    assert not kinds & {"aten::rsqrt", "aten::rsqrt_", "aten::subtract"}, kinds
    for node in program.graph.findAllNodes("aten::contiguous"):
        before_it, layout = node.inputs()
        assert layout.toIValue() != 0 or before_it.node().kind() != "aten::permute"
print("folded")
"""

# Whose answers depend on the size of the batch in Python, which a trace cannot follow.
UNTRACEABLE = """
from glimpse.server.runtime import selection
selection.choose("torch")
import keras, structlog, torch
from glimpse.server.runtime.torch import TorchRuntime
from glimpse.server.runtime.torch_program import _Layers

class ByBatch(keras.layers.Layer):
    def call(self, x):
        return x * float(x.shape[0] or 1)

pixels = keras.Input((4,), dtype="uint8")
x = ByBatch()(keras.layers.Rescaling(1.0)(pixels))
model = keras.Model(pixels, keras.layers.Identity(name="probabilities")(x))
with structlog.testing.capture_logs() as logs:
    runtime = TorchRuntime(model, "float32")
assert [line["event"] for line in logs] == ["network is not traced"], logs
assert isinstance(runtime._program, _Layers)
from pathlib import Path
assert runtime.save(Path("/nowhere")) is None
print("layers")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param(PARITY, "equal", id="traced"),
        pytest.param(FOLDED, "folded", id="batch normalisation is part of the convolution"),
        pytest.param(UNTRACEABLE, "layers", id="not traceable"),
    ],
)
def test_the_program_gives_the_answers_of_the_layers_or_is_not_used(script: str, says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[-1:] == [says], ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_later_start_needs_no_keras_and_answers_the_same(tmp_path: Path, precision: str) -> None:
    starts = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", KEPT.replace("PRECISION", precision)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "GLIMPSE_CACHE": str(tmp_path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
        )
        for _ in range(2)
    ]
    (first, built, answers), (second, built_again, same) = starts
    assert (first, second) == (precision, precision)
    assert (built, built_again) == (True, False)
    assert answers.keys() == {"class_maps", "embedding", "feature_statistics", "logits", "probabilities"}
    for name, values in answers.items():
        np.testing.assert_allclose(same[name], values, rtol=1e-5, atol=1e-5)
