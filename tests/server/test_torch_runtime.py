"""The PyTorch runtime: a traced program with the answers of Keras' layers, in a process where Keras is on PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

PARITY = """
import json
from glimpse.server.runtime import selection
selection.choose("torch")
import numpy as np, structlog, torch
from glimpse.models import sources
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.serving import load_bundle, serving_outputs, by_name
from glimpse.server.runtime.torch import TorchRuntime
bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
model = serving_outputs(load_bundle(bundle), bundle.recipe, bundle.temperature)
with structlog.testing.capture_logs() as logs:
    runtime = TorchRuntime(model, "float32")
assert [line["event"] for line in logs] == ["network traced"], logs
assert isinstance(runtime._program, torch.jit.ScriptModule)
assert runtime.streams == 1
for size in (1, 2, 7, 32):
    pixels = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
    found = runtime(pixels, frozenset({PROBABILITIES, LOGITS}))
    with torch.no_grad():
        expected = by_name(model, model(torch.from_numpy(pixels), training=False))
    np.testing.assert_allclose(found[PROBABILITIES], expected[PROBABILITIES].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[LOGITS], expected[LOGITS].numpy(), atol=1e-3)
    kept = found[PROBABILITIES].copy()
    runtime(255 - pixels)
    np.testing.assert_array_equal(found[PROBABILITIES], kept)
assert runtime.out_of_memory(RuntimeError("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB."))
assert not runtime.out_of_memory(RuntimeError("another defect"))
print("equal")
"""

# Whose answers depend on the size of the batch in Python, which a trace cannot follow.
UNTRACEABLE = """
from glimpse.server.runtime import selection
selection.choose("torch")
import keras, structlog, torch
from glimpse.server.runtime.torch import TorchRuntime, _Layers

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
print("layers")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize(
    ("script", "says"),
    [pytest.param(PARITY, "equal", id="traced"), pytest.param(UNTRACEABLE, "layers", id="not traceable")],
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
