"""The JAX runtime: what it compiles is kept for the next start, and memory of a GPU is taken as it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.runtime import selection
from tests.conftest import ROOT

# Counts, with JAX's own events, the programs that were found and those that were not.
SCRIPT = """
import collections, json, os
from glimpse.server.runtime import selection
selection.choose("jax")
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
from tests.server.building import build
from glimpse.models import sources
import numpy as np
import keras
traced = collections.Counter()
stateless_call = keras.Model.stateless_call
def counted(self, *arguments, **options):
    traced.update([self.name])
    return stateless_call(self, *arguments, **options)
keras.Model.stateless_call = counted
runtime = build(sources.resolve(sources.ModelSource(weights="cifar10")), "jax", precision="float32").runtime
answers = [runtime(np.full((size, 32, 32, 3), 7, np.uint8)) for size in (1, 2)]
assert traced.total() == 1, traced
highest = float(answers[0]["probabilities"].max())
pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
every = runtime(pixels, runtime.outputs)
assert {name: values.shape for name, values in every.items()} == {
    "probabilities": (2, 10), "logits": (2, 10), "embedding": (2, 112), "class_maps": (2, 10, 65),
    "feature_statistics": (2, 128),
}
means = every["class_maps"][..., 1:].mean(axis=-1)
np.testing.assert_allclose(means, -np.sort(-every["logits"]), atol=1e-4)
found, missed = events["cache_hits"], events["cache_misses"]
class Counts(keras.layers.Layer):
    def compute_output_shape(self, shape):
        return shape
    def call(self, inputs):
        return inputs * (int(inputs.shape[0]) / inputs.shape[0])
pixels = keras.Input((4, 4, 3), dtype="uint8")
flat = keras.layers.Flatten()(Counts()(keras.layers.Rescaling(1 / 255)(pixels)))
scores = keras.layers.Softmax(name="probabilities")(keras.layers.Dense(3)(flat))
from glimpse.server.runtime.jax import JaxRuntime
each = JaxRuntime(keras.Model(pixels, [scores]), "float32")
for size in (1, 3):
    scores = each(np.zeros((size, 4, 4, 3), np.uint8), frozenset({"probabilities"}))["probabilities"]
    np.testing.assert_allclose(scores.sum(axis=1), np.ones(size), atol=1e-5)
print(json.dumps([found, missed, runtime.streams, highest]))
"""

# Serves a model as a start does, and says what was imported for it, compiled for it, and what it answers.
KEPT = """
import collections, json, sys
from glimpse.server.runtime import selection
selection.choose("jax")
import jax
import numpy as np
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
from glimpse.models import sources
from glimpse.server.runtime import golden_check, importing, serving
from glimpse.server.runtimes import RUNTIMES
bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
imported = importing.import_model(bundle, RUNTIMES["jax"])
runtime = serving.serve(imported, golden_check.load(bundle, "require"), precision="PRECISION", largest=2).runtime
pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
answers = {name: values.tolist() for name, values in sorted(runtime(pixels, runtime.outputs).items())}
found = {"keras": "keras" in sys.modules, "compiled": events["cache_misses"], "answers": answers}
print(json.dumps(found | {"stages": len(imported.summary.stages), "precision": runtime.precision}))
"""


def started(script: str, cache: Path, **more: str) -> Any:
    """What a process prints last that has run this, behind what its log says."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")},
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
        "GLIMPSE_CACHE": str(cache),
        "JAX_PLATFORMS": "cpu",
        **more,
    }
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_later_start_needs_no_keras_and_answers_the_same(tmp_path: Path, precision: str) -> None:
    first, second, third = (started(KEPT.replace("PRECISION", precision), tmp_path) for _ in range(3))
    assert (first["keras"], second["keras"], third["keras"]) == (True, False, False)
    assert first["compiled"] > 0
    assert third["compiled"] == 0
    assert first["precision"] == second["precision"] == precision
    assert first["stages"] == second["stages"] > 0
    assert len(first["answers"]) == 5
    assert first["answers"] == second["answers"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_a_start_with_other_types_traces_the_network_anew(tmp_path: Path) -> None:
    script = KEPT.replace("PRECISION", "float32")
    starts = [started(script, tmp_path, JAX_ENABLE_X64=switch) for switch in ("0", "1", "1", "0")]
    assert [each["keras"] for each in starts] == [True, True, False, False]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    starts = [started(SCRIPT, tmp_path) for _ in range(2)]
    (_, compiled, streams, first), (found, missed, _, second) = starts
    assert compiled >= 2, "a program for each batch size"
    assert (missed, found >= compiled) == (0, True)
    assert first == second
    assert streams == 1, "a CPU computes one batch at a time"
    assert list((tmp_path / "jax").iterdir()), "the programs are below GLIMPSE_CACHE"


def test_memory_of_a_gpu_is_taken_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*selection._JAX_MEMORY, "TF_FORCE_GPU_ALLOW_GROWTH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    selection._take_gpu_memory_as_needed()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


@pytest.mark.parametrize("name", ["XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR"])
def test_what_the_user_says_of_the_memory_of_a_gpu_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in selection._JAX_MEMORY:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "0.5")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    selection._take_gpu_memory_as_needed()
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
    assert (os.environ[name], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"]) == ("0.5", "false")
