"""Models as they are loaded: each owns what it takes, and several live in one process."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import structlog

from glimpse.models import bundle as bundles
from glimpse.models.files import digests
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.sources import ModelSource
from glimpse.server.batching.sleep_queue import SleepQueue
from glimpse.server.errors import UnavailableError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions
from glimpse.server.machine import cores
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.progress import untold
from glimpse.server.runtime import (
    UnsupportedNetworkError,
    builder,
    conversion,
    importing,
    kept_measurements,
    stream_rates,
)
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.settings import Settings
from tests.conftest import CACHE
from tests.variations import mostly_in_ci

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the runtimes build on TensorFlow")

PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of all tests, so that the shipped network is converted for none of these."""
    for name, value in CACHE.items():
        monkeypatch.setenv(name, value)


def load(folder: Path = bundles.EMBEDDED_DEFAULT, **settings: Any) -> LoadedModel:
    options = LoadOptions.of(Settings(precision="float32", max_batch_size=2, **settings))
    return load_model(ModelSource(weights=str(folder)), options, Metrics().of)


def renamed(folder: Path, name: str) -> Path:
    """The shipped bundle under another name, with the same network."""
    shutil.copytree(bundles.EMBEDDED_DEFAULT, folder)
    values = json.loads((folder / bundles.DESCRIPTION).read_text())
    (folder / bundles.DESCRIPTION).write_text(json.dumps({**values, "name": name}))
    return folder


def answer(model: LoadedModel) -> np.ndarray[Any, Any]:
    return model.batcher.submit(PIXELS).result(60).outputs[PROBABILITIES]


def test_a_model_that_is_closed_leaves_the_others_serving(tmp_path: Path) -> None:
    first, other = load(), load(renamed(tmp_path / "other", "other"))
    assert (first.identity.name, other.identity.name) == ("se_resnet20_cifar10", "other")
    before = answer(other)
    np.testing.assert_array_equal(answer(first), before)
    assert first.close(60)
    with pytest.raises(UnavailableError):
        first.batcher.submit(PIXELS)
    np.testing.assert_array_equal(answer(other), before)
    assert other.close(60)


def test_a_model_that_wakes_has_the_streams_it_had_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    used, measured = list[int](), list[int]()
    use_streams = OpenVINORuntime.use_streams

    def noted(self: OpenVINORuntime, streams: int) -> None:
        used.append(streams)
        use_streams(self, streams)

    monkeypatch.setattr(OpenVINORuntime, "use_streams", noted)
    monkeypatch.setattr(OpenVINORuntime, "side_by_side", lambda _, streams: measured.append(streams))
    settings: dict[str, Any] = {"precision": "float32", "max_batch_size": 2}
    options = replace(LoadOptions.of(Settings(**settings)), sleeps=True, streams=3)
    model = load_model(ModelSource(weights=str(bundles.EMBEDDED_DEFAULT)), options, Metrics().of)
    assert isinstance(model.batcher, SleepQueue)
    woken = model.batcher.load(untold)
    assert (used, measured) == ([3, 3], [])
    assert woken.close(60)
    assert model.close(60)


def test_streams_are_measured_at_the_first_start_unless_they_are_stated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept_measurements, "cache_folder", lambda kind: tmp_path / kind)
    monkeypatch.setattr(stream_rates, "SECONDS", 0.2)
    told = list[list[str]]()
    for streams in (1024, 0, 0):
        settings: dict[str, Any] = {"precision": "float32", "compute_streams": streams}
        options = LoadOptions.of(Settings(**settings))
        assert options.streams == min(streams, cores.available())
        with structlog.testing.capture_logs() as lines:
            model = load_model(ModelSource(weights=str(bundles.EMBEDDED_DEFAULT)), options, Metrics().of)
        told.append([line["event"] for line in lines if line["event"].startswith("streams")])
        assert model.close(60)
    assert told == [[], ["streams measured", "streams chosen"], ["streams chosen"]]


@pytest.mark.parametrize("runtime", mostly_in_ci(("openvino", "tensorflow"), "openvino"))
def test_a_model_that_is_closed_and_dropped_gives_back_its_runtime(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes: list[weakref.ref[Any]] = []
    build = builder.build

    def watched(*arguments: Any, **options: Any) -> Any:
        built = build(*arguments, **options)
        runtimes.append(weakref.ref(built.runtime))
        return built

    monkeypatch.setattr(builder, "build", watched)
    before = threading.active_count()
    model = load(runtime=runtime)
    assert model.runtime == runtime
    gc.collect()
    assert runtimes[0]() is not None
    assert model.close(60)
    del model
    gc.collect()
    assert [each() for each in runtimes] == [None]
    assert threading.active_count() <= before


def test_weights_are_hashed_once_though_two_runtimes_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them finds at its import that it cannot; the second reads the same file."""
    hashed: list[Path] = []
    digest = digests.digest

    def counted(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    def refuses(*_: Any, **__: Any) -> None:
        raise UnsupportedNetworkError("no such operation")

    monkeypatch.setattr(digests, "digest", counted)
    monkeypatch.setattr(conversion, "get_or_convert", refuses)
    with structlog.testing.capture_logs() as logs:
        model = load()
    assert model.close(60)
    assert model.runtime == "tensorflow"
    assert [line["detail"] for line in logs if line["event"] == "slower runtime"] == ["no such operation"]
    assert hashed.count(model.bundle.weights_path) == 1


def test_what_is_imported_for_keras_is_built_anew_over_the_same_variables() -> None:
    bundle = bundles.read(bundles.EMBEDDED_DEFAULT)
    imported = importing.import_model(bundle, RUNTIMES["tensorflow"])
    assert imported.bundle.verified_versions == digests.file_versions(bundle.weights_path)
    assert imported.summary.parameters == 864_802
    first, second = imported.form(), imported.form()
    assert isinstance(first, keras.Model)
    assert isinstance(second, keras.Model)
    assert first is not second
    assert {id(each) for each in first.variables} == {id(each) for each in second.variables}
