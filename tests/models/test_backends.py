"""The library on Keras' other backends: the same file gives the same answers on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse import models
from glimpse.models import bundle
from tests.models.test_learning import write_shapes

# Each family once, with every kind of layer: grouped, depthwise, separable, dense behind maps, parallel, recalibrated.
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("mnist_dnn", {}),
    ("se_resnet20", {}),
    ("squeezenet1_1", {}),
    ("resnet18", {}),
    ("resnext50", {"variant": "handbook", "factorized": True}),
    ("se_resnext50", {}),
    ("googlenet", {"auxiliary": True}),
    ("inception_v2", {"se_ratio": 16}),
    ("inception_v4", {}),
    ("densenet121", {}),
    ("xception", {}),
    ("mobilenet", {"alpha": 0.25}),
    ("mobilenet_v2", {}),
]
_READ = """
import sys
import keras
import numpy as np
assert keras.backend.backend() == sys.argv[1]
for path in sys.argv[2:]:
    model = keras.saving.load_model(path, safe_mode=True)
    x = np.load(path + ".npy")
    outputs = model(x, training=False)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    np.savez(path + "." + sys.argv[1], *[keras.ops.convert_to_numpy(value) for value in outputs])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[np.ndarray]]:
    """Saved models and what this backend answers."""
    folder = tmp_path_factory.mktemp("saved")
    answers = {}
    keras.utils.set_random_seed(0)
    for name, options in NETWORKS:
        model = models.build(name, **options)
        x = np.random.default_rng(0).standard_normal((1, *model.input_shape[1:]), np.float32)
        path = folder / f"{name}.keras"
        model.save(path)
        np.save(f"{path}.npy", x)
        outputs = model(x, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        answers[path] = [keras.ops.convert_to_numpy(value) for value in outputs]
    return answers


@pytest.mark.slow
@pytest.mark.timeout(1800)  # outside a compiled function JAX compiles every operation of every layer by itself
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_saved_network_answers_the_same_on_another_backend(backend: str, saved: dict[Path, list[np.ndarray]]) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: see CONTRIBUTING.md, make test-parity")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", _READ, backend, *map(str, saved)], env=environment, check=True)
    for path, ours in saved.items():
        with np.load(f"{path}.{backend}.npz") as theirs:
            for mine, name in zip(ours, theirs.files, strict=True):
                np.testing.assert_allclose(theirs[name], mine, atol=1e-4 * np.abs(mine).max(), err_msg=path.name)


_COMPILED = """
import sys
import keras
import numpy as np
from glimpse.models import serving
image = keras.Input((4, 4, 3), dtype="uint8")
network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(image)))
assert np.allclose(serving.logits(network, np.full((3, 4, 4, 3), 7, np.uint8)), 7)
sys.exit(network.jit_compile is not (sys.argv[1] == "True"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "compiled"), [("tensorflow", False), ("jax", True), ("torch", False)])
def test_logits_are_compiled_only_where_that_pays(backend: str, *, compiled: bool) -> None:
    """PyTorch's compiler takes longer than the logits of a data set, and fails at some of Keras' operations."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: see CONTRIBUTING.md, make test-parity")
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", _COMPILED, str(compiled)], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_short_training_learns_on_another_backend(backend: str, tmp_path: Path) -> None:
    """With Keras' own momentum, the moving statistics of so few steps answer all pictures alike."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: see CONTRIBUTING.md, make test-parity")
    words = ["--data", write_shapes(tmp_path / "train", each=100, seed=1), "--architecture", "resnet20"]
    words += ["--test", write_shapes(tmp_path / "unseen", each=30, seed=2), "--size", 32, "--epochs", 3]
    command = [sys.executable, "-m", "glimpse.models.train", *map(str, words), "--out", str(tmp_path / "run")]
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, check=True)
    assert bundle.read(tmp_path / "run/bundle").metrics["top1"] > 0.9
