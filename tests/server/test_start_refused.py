"""What keeps a server from starting, told with the right exit code: the real way, without the process around it.

The causes that cost no framework, and one of each exit code, are told by real processes in test_life.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
import structlog

from glimpse.models import bundle as bundles
from glimpse.models.files import digests
from glimpse.server.app import Server
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.processes.startup import GoldenError, MemoryShortError, ModelLoadError
from glimpse.server.runtime import builder, memory_budget
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.builder import BuiltRuntime
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtime.tensorflow import TensorFlowRuntime
from glimpse.server.runtimes import PRECISIONS
from glimpse.server.settings import Settings

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the runtimes build on TensorFlow")

Edit = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped bundle, to be damaged."""
    return Path(shutil.copytree(bundles.EMBEDDED_DEFAULT, tmp_path / "bundle"))


def load(weights: Path, **settings: Any) -> LoadedModel:
    """Load it as a server does; the errors are those that its exit code is from."""

    async def prepared() -> LoadedModel:
        return Server(Settings(weights=str(weights), **settings)).models._prepare_and_load()

    model = asyncio.run(prepared())
    assert model.batcher.close(60)
    return model


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Other weights, with everything made to fit them but the recorded answers."""
    path = folder / bundles.WEIGHTS
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)
    adopt_digest(folder)


def adopt_digest(folder: Path) -> None:
    digest = digests.digest(folder / bundles.WEIGHTS)
    for name in ("model.json", "golden/answers.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "weights_digest": digest}))


def test_the_shipped_bundle_starts_with_its_answers_required() -> None:
    assert load(bundles.EMBEDDED_DEFAULT, golden="require").batch_sizes[0] == 1


def test_a_flipped_bit_in_the_weights_is_refused(folder: Path) -> None:
    path = folder / bundles.WEIGHTS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="is not the file that the bundle was made with"):
        load(folder)


def test_truncated_weights_are_refused_even_with_their_digest(folder: Path) -> None:
    path = folder / bundles.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    adopt_digest(folder)
    with pytest.raises(ModelLoadError, match=r"weights\.safetensors"):
        load(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / bundles.WEIGHTS).unlink()
    with pytest.raises(ModelLoadError, match=r"weights\.safetensors cannot be read: No such file"):
        load(folder)


def test_too_few_labels_are_refused(folder: Path) -> None:
    path = folder / "labels.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ModelLoadError, match=r"must name the 10 classes .* Received: 9 lines"):
        load(folder)


@pytest.mark.parametrize("text", ["height =", "height = 32", "height = 32\nwidth = 32\nfilter = 'best'"])
def test_a_recipe_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(ModelLoadError, match=r"recipe\.toml cannot be used"):
        load(folder / bundles.WEIGHTS, model="se_resnet20", recipe=recipe)


# TensorFlow is loaded here; for OpenVINO, which `auto` takes, a process of its own has to load it and convert.
RUNTIMES = ["tensorflow", pytest.param("auto", marks=pytest.mark.ci)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_load_well_but_answer_otherwise_are_refused(folder: Path, runtime: str) -> None:
    def classes_in_another_order(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name: np.roll(value, 1, axis=-1).copy() if value.shape[-1] == 10 else value
            for name, value in tensors.items()
        }

    change_weights(folder, classes_in_another_order)
    with pytest.raises(GoldenError, match=r"chelsea\.png .* Expected: class 3 .* Received: class 4"):
        load(folder, runtime=runtime)
    with structlog.testing.capture_logs() as logs:
        load(folder, runtime=runtime, golden="off")
    assert any(line["event"] == "golden answers not checked" for line in logs)


@pytest.mark.ci
@pytest.mark.parametrize("runtime", ["tensorflow", pytest.param("auto", marks=pytest.mark.slow)])
def test_weights_of_zeros_are_refused_though_nothing_is_recorded(folder: Path, runtime: str) -> None:
    change_weights(folder, lambda tensors: {name: np.zeros_like(value) for name, value in tensors.items()})
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**values, "golden": ""}))
    with pytest.raises(GoldenError, match="exactly the same answer"):
        load(folder, runtime=runtime)


@pytest.mark.ci
def test_bfloat16_that_does_not_give_the_answers_falls_back_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def build(imported: ImportedModel, *, precision: str, **_: Any) -> BuiltRuntime:
        """What a device with bfloat16 takes for `auto`, where it keeps the answers."""
        made.append("bfloat16" if precision == "auto" else precision)
        runtime = TensorFlowRuntime(imported.form(), made[-1])  # type: ignore[arg-type]
        return BuiltRuntime(runtime, Agreement("bfloat16", 100, 100, 0) if made[-1] == "bfloat16" else None)

    monkeypatch.setattr(builder, "build", build)
    # What bfloat16 really gives is within the tolerance; so the tolerance is made too tight for it.
    monkeypatch.setitem(PRECISIONS, "bfloat16", replace(PRECISIONS["bfloat16"], tolerance=1e-6))
    with structlog.testing.capture_logs() as logs:
        model = load(bundles.EMBEDDED_DEFAULT, runtime="tensorflow", max_batch_size=2)
    assert made == ["bfloat16", "float32"]
    assert model.precision == "float32"
    assert model.agreement == Agreement("bfloat16", 100, 100, 0), "what was found is told all the same"
    (line,) = (line for line in logs if line["event"] == "precision falls back")
    assert "tensorflow in bfloat16" in line["detail"]
    made.clear()
    with pytest.raises(GoldenError, match="tensorflow in bfloat16"):
        load(bundles.EMBEDDED_DEFAULT, runtime="tensorflow", max_batch_size=2, precision="bfloat16")


@pytest.mark.ci
def test_bfloat16_gives_the_recorded_answers_within_its_tolerance() -> None:
    assert load(bundles.EMBEDDED_DEFAULT, runtime="tensorflow", precision="bfloat16").precision == "bfloat16"


def test_memory_that_does_not_suffice_is_told_before_the_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory_budget, "available", lambda: memory_budget.MemoryBudget(1 << 20, "what is left of a test")
    )
    with pytest.raises(MemoryShortError, match="1 MiB are free"):
        load(bundles.EMBEDDED_DEFAULT)


@pytest.mark.parametrize("fails", ["build", "warm"])
def test_memory_that_ends_while_loading_is_told_the_same(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    class Short(TensorFlowRuntime):
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise MemoryError

    def build(imported: ImportedModel, *, precision: Any, **_: Any) -> BuiltRuntime:
        if fails == "build":
            raise MemoryError
        return BuiltRuntime(Short(imported.form(), precision), None)

    monkeypatch.setattr(builder, "build", build)
    with pytest.raises(MemoryShortError, match="not enough memory to load the model se_resnet20_cifar10"):
        load(bundles.EMBEDDED_DEFAULT, runtime="tensorflow")


@pytest.mark.parametrize(
    ("name", "error"),
    [("labels.txt", ModelLoadError), ("weights.safetensors", ModelLoadError), ("golden/answers.json", GoldenError)],
)
def test_a_pipe_in_a_bundle_is_refused_and_not_waited_for(folder: Path, name: str, error: type[Exception]) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(error, match=r"pipe|plain file"):
        load(folder)
