"""int8 with NNCF itself: a network that keeps its answers is taken, and one that does not is not."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import structlog

from glimpse.models import bundle as bundles
from glimpse.models import calibration_pictures, sources
from glimpse.models.bundle import Bundle, ClassLabel
from glimpse.models.calibration_pictures import UNKNOWN
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.sources import ModelSource
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.progress import untold
from glimpse.server.runtime import agreement, builder, quantisation, speeds
from glimpse.server.runtime.builder import BuiltRuntime
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.int8_trial import Given
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.settings import Settings
from glimpse.server.settings.kinds import PrecisionChoice
from tests.server.patches import noise

EMBEDDED = bundles.read(bundles.EMBEDDED_DEFAULT)
RECIPE = Recipe(height=32, width=32, mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))
needs_nncf = pytest.mark.skipif(not quantisation.installed(), reason="nncf is not installed")
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="OpenVINO converts TensorFlow's graph"
)


def network(offset: float) -> keras.Model:
    """A classifier of patches whose features are moved by `offset`, which its last layer takes back."""
    random = np.random.default_rng(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(8)(inputs)
    x = keras.layers.Flatten()(x)
    features = keras.layers.Dense(64, activation="relu", name="features")
    logits = keras.layers.Dense(10, name="logits")
    model = keras.Model(inputs, logits(features(x)))
    second = random.normal(0, 1.0, (64, 10)).astype(np.float32)
    features.set_weights([random.normal(0, 0.15, (48, 64)).astype(np.float32), np.full(64, 2 + offset, np.float32)])
    logits.set_weights([second, -(2 + offset) * second.sum(axis=0)])
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Two bundles with the same answers in float32 and pictures of their own; one of them breaks with fewer digits."""
    found = {}
    for name, offset in (("robust", 0.0), ("fragile", 5000.0)):
        folder = tmp_path_factory.mktemp(name)
        with warnings.catch_warnings():
            # Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`: not ours.
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            network(offset).save(folder / "network.keras")
        bundles.write(
            folder,
            name=name,
            version="1",
            architecture="",
            variant="",
            weights="network.keras",
            input_shape=(32, 32, 3),
            labels=[ClassLabel(f"class {number}") for number in range(10)],
            recipe=RECIPE,
            temperature=1.0,
            metrics={},
        )
        assert calibration_pictures.write(folder, noise(300), np.full(300, UNKNOWN), RECIPE)
        found[name] = sources.resolve(sources.ModelSource(weights=str(folder)))
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("GLIMPSE_CACHE", str(path))
        yield path


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small a network is not computed faster in int8; here it is, so that its answers decide."""
    monkeypatch.setattr(speeds, "ratio", lambda *_: 2.0)


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "ratio", lambda *_: 1.1)


def build(bundle: Bundle, precision: PrecisionChoice) -> tuple[BuiltRuntime, list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as logs:
        built = builder.build(import_model(bundle, RUNTIMES["openvino"]), precision=precision, given=Given())
    return built, [dict(line) for line in logs]


@needs_nncf
@on_tensorflow
@pytest.mark.ci
@pytest.mark.usefixtures("cache", "_fast")
def test_auto_takes_int8_of_a_network_that_keeps_its_answers(made: dict[str, Bundle]) -> None:
    built, logs = build(made["robust"], "auto")
    assert built.runtime.precision == "int8"
    assert built.agreement is not None
    assert (built.agreement.precision, built.agreement.speed) == ("int8", 2.0)
    assert built.agreement.share >= agreement.REQUIRED_SHARE
    quantised = [line for line in logs if line["event"] == "network quantised"]
    assert 1 <= len(quantised) <= 2, "without instructions for int8 it takes the careful way"
    (chosen,) = [line for line in logs if line["event"] == "precision chosen"]
    assert chosen["precision"] == "int8"
    assert "2.00 times as fast" in chosen["detail"]
    again, logs = build(made["robust"], "auto")
    assert again.agreement == built.agreement
    assert [line["event"] for line in logs] == ["precision chosen"], "what was made and measured is kept"
    # Near float32, but not the same: it does compute in int8.
    reference, _ = build(made["robust"], "float32")
    pixels = noise(40)[-8:]
    outputs = frozenset({LOGITS, PROBABILITIES})
    found, expected = built.runtime(pixels, outputs), reference.runtime(pixels, outputs)
    np.testing.assert_allclose(found[PROBABILITIES].sum(axis=1), 1, atol=1e-5)
    difference = np.abs(found[PROBABILITIES] - expected[PROBABILITIES]).max()
    assert 1e-6 < difference < 0.2
    assert set(built.runtime.outputs) == set(reference.runtime.outputs)


@needs_nncf
@on_tensorflow
@pytest.mark.ci
@pytest.mark.usefixtures("cache", "_fast")
def test_a_network_broken_by_int8_keeps_its_answers_when_served(made: dict[str, Bundle]) -> None:
    built, logs = build(made["fragile"], "auto")
    compared = [line["agreement"] for line in logs if line["event"] == "precisions compared"]
    assert compared[0] < 0.9, "it breaks, and a more careful network is tried"
    assert len(compared) == 2
    # The layers that stay in float32 keep the answers.
    assert built.agreement is not None
    reference, _ = build(made["fragile"], "float32")
    pixels = noise(300)
    found, expected = (each.runtime(pixels)[PROBABILITIES] for each in (built, reference))
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= agreement.REQUIRED_SHARE


@needs_nncf
@on_tensorflow
@pytest.mark.ci
@pytest.mark.usefixtures("_slow")
def test_int8_that_is_not_faster_is_not_taken_and_refused_if_stated(
    made: dict[str, Bundle], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "networks").symlink_to(cache / "networks")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))  # where nothing was measured
    built, logs = build(made["robust"], "auto")
    assert built.runtime.precision == OpenVINORuntime.resolve("auto")
    (fallen,) = [line for line in logs if line["event"] == "precision falls back"]
    assert (fallen["log_level"], fallen["instead_of"]) == ("info", "int8")
    assert not any(line.get("careful") for line in logs), "layers in float32 would make it no faster"
    with pytest.raises(
        ValueError, match=r"1\.10 times as fast as .*; 1\.15 times are required\. Set GLIMPSE_PRECISION"
    ):
        build(made["robust"], "int8")


@needs_nncf
@on_tensorflow
@pytest.mark.ci
@pytest.mark.usefixtures("_fast")
def test_a_model_in_int8_wakes_without_earning_its_place_again(
    made: dict[str, Bundle], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other models it may be no faster, and nothing that was measured may be kept."""
    (tmp_path / "networks").symlink_to(cache / "networks")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    settings: dict[str, Any] = {"runtime": "openvino", "golden": "off"}
    options = replace(LoadOptions.of(Settings(**settings)), sleeps=True)
    model = load_model(ModelSource(weights=str(made["robust"].folder)), options, Metrics().of)
    assert model.precision == "int8"
    queue = model.batcher
    assert isinstance(queue, SleepQueue)
    assert queue.sleep(60)
    shutil.rmtree(tmp_path / "agreement")
    monkeypatch.setattr(quantisation, "pictures", None)  # which may have been deleted meanwhile

    def measured(*_: object, **__: object) -> float:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(speeds, "ratio", measured)
    monkeypatch.setattr(agreement, "measure", measured)
    queue.wake(queue.load(untold))
    found = queue.submit(noise(1)[0]).result(60).outputs[PROBABILITIES]
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert queue.close(60)


@needs_nncf
@pytest.mark.usefixtures("cache")
def test_without_pictures_of_its_own_auto_does_not_consider_int8() -> None:
    imported = import_model(EMBEDDED, RUNTIMES["tensorflow"])
    assert not builder.may_quantise(imported, "auto")
    assert builder.may_quantise(imported, "int8")


def test_without_nncf_int8_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"pip install 'glimpse-serve\[int8\]'"):
        quantisation.check_installed()
