"""Precisions that earn their place and that do not: networks made for it, behind real runtimes and real servers."""

from __future__ import annotations

import json
import shutil
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import structlog

from glimpse.client import Client
from glimpse.models import bundle as bundles
from glimpse.models import sources, variations
from glimpse.models.golden import SampleImage
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.runtime.agreement import MIN_PICTURES, REQUIRED_SHARE
from glimpse.server.runtime.builder import BuiltRuntime
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.tensorflow import TensorFlowRuntime
from glimpse.server.runtimes import Precision, RuntimeName
from glimpse.server.settings.kinds import PrecisionChoice
from tests.conftest import RunningServer
from tests.server import building
from tests.variations import mostly_in_ci

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="both runtimes build on TensorFlow")
COMPARED = {"comparing precisions", "precisions compared"}


@pytest.fixture(scope="module")
def native() -> None:
    if OpenVINORuntime.resolve("auto") == "float32":
        pytest.skip("this processor does not compute in bfloat16")


@pytest.fixture
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow computes in bfloat16 without instructions for it; here it would choose it, too."""

    def resolve(precision: PrecisionChoice) -> Precision:
        return "bfloat16" if precision == "auto" else precision

    monkeypatch.setattr(TensorFlowRuntime, "resolve", staticmethod(resolve))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks with the same answers in float32; in bfloat16 one of them loses all that tells pictures apart."""
    made = {}
    for name, offset in (("robust", 0.0), ("fragile", 5000.0)):
        path = tmp_path_factory.mktemp(name) / f"{name}.keras"
        with warnings.catch_warnings():
            # Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`: not ours.
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            _made(offset).save(path)
        (path.parent / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)))
        (path.parent / "recipe.toml").write_text(
            "height = 32\nwidth = 32\nmean = [127, 127, 127]\nstd = [64, 64, 64]\n"
        )
        made[name] = path
    return made


def _made(offset: float) -> keras.Model:
    """A classifier whose features are moved by `offset`, which its last layer takes back."""
    random = np.random.default_rng(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(8)(inputs)
    x = keras.layers.Flatten()(x)
    features = keras.layers.Dense(16, activation="relu", name="features")
    logits = keras.layers.Dense(10, name="logits")
    model = keras.Model(inputs, logits(features(x)))
    first = random.normal(0, 0.15, (48, 16)).astype(np.float32)
    second = random.normal(0, 1.5, (16, 10)).astype(np.float32)
    features.set_weights([first, np.full(16, 8 + offset, np.float32)])
    logits.set_weights([second, -(8 + offset) * second.sum(axis=0)])
    return model


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is converted is kept for all tests here: that takes seconds, and is not what they are about."""
    return tmp_path_factory.mktemp("networks")


@pytest.fixture
def cache(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a test, in which nothing has been compared."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "networks").symlink_to(networks)
    monkeypatch.setenv("GLIMPSE_CACHE", str(cache))
    return cache


_OF_OTHERS = {"network converted", "rpcs left out of the log"}  # the second by servers of other tests in this process


def build(
    path: Path, *names: RuntimeName, precision: PrecisionChoice = "auto"
) -> tuple[BuiltRuntime, list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as logs:
        built = building.build(sources.resolve(sources.ModelSource(weights=str(path))), *names, precision=precision)
    return built, [dict(line) for line in logs if line["event"] not in _OF_OTHERS]


@pytest.mark.usefixtures("_emulated", "cache")
def test_a_network_broken_by_bfloat16_gets_float32_from_auto_and_the_reason(weights: dict[str, Path]) -> None:
    built, logs = build(weights["fragile"], "tensorflow")
    assert built.runtime.precision == "float32"
    assert built.agreement is not None
    assert (built.agreement.precision, built.agreement.pictures) == ("bfloat16", 200)
    assert built.agreement.share < 0.9
    assert [line["event"] for line in logs] == ["comparing precisions", "precisions compared", "precision falls back"]
    warning = logs[-1]
    assert (warning["log_level"], warning["precision"], warning["instead_of"]) == ("warning", "float32", "bfloat16")
    assert f"{built.agreement.share:.1%}; 99% are required" in warning["detail"]
    assert "GLIMPSE_PRECISION=bfloat16" in warning["detail"]
    # What is handed out computes in it, though the same layers have been tried in bfloat16.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    alone, _ = build(weights["fragile"], "tensorflow", precision="float32")
    np.testing.assert_allclose(built.runtime(pixels)[PROBABILITIES], alone.runtime(pixels)[PROBABILITIES], atol=1e-6)


@pytest.mark.usefixtures("_emulated", "cache")
def test_a_network_that_keeps_its_answers_keeps_bfloat16(weights: dict[str, Path]) -> None:
    built, logs = build(weights["robust"], "tensorflow")
    assert built.runtime.precision == "bfloat16"
    assert built.agreement is not None
    assert built.agreement.share >= REQUIRED_SHARE
    assert built.agreement.pictures >= MIN_PICTURES
    assert [line["event"] for line in logs] == ["comparing precisions", "precisions compared"]


@pytest.mark.usefixtures("_emulated", "cache")
@pytest.mark.parametrize("name", mostly_in_ci(["robust", "fragile"], "fragile"))
def test_the_next_start_compares_nothing_and_comes_to_the_same(weights: dict[str, Path], name: str) -> None:
    before, _ = build(weights[name], "tensorflow")
    after, logs = build(weights[name], "tensorflow")
    assert after.agreement == before.agreement
    assert after.runtime.precision == before.runtime.precision
    assert [line["event"] for line in logs] == (["precision falls back"] if name == "fragile" else [])


@pytest.mark.usefixtures("_emulated")
def test_what_is_kept_and_damaged_is_found_anew(weights: dict[str, Path], cache: Path) -> None:
    before, _ = build(weights["robust"], "tensorflow")
    (kept,) = (cache / "agreement").iterdir()
    whole = kept.read_text()
    kept.write_text(whole[:-20])
    after, logs = build(weights["robust"], "tensorflow")
    assert logs[0]["event"] == "kept agreement cannot be used"
    assert {line["event"] for line in logs[1:]} == COMPARED
    assert after.agreement == before.agreement
    assert kept.read_text() == whole


@pytest.mark.usefixtures("_emulated", "cache")
def test_another_processor_compares_anew(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    build(weights["robust"], "tensorflow")
    monkeypatch.setattr(TensorFlowRuntime, "processor", staticmethod(lambda: "another"))
    _, logs = build(weights["robust"], "tensorflow")
    assert {line["event"] for line in logs} == COMPARED


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", mostly_in_ci(["robust", "fragile"], "fragile"))
def test_bfloat16_that_is_asked_for_is_taken_with_a_warning_if_answers_change(
    weights: dict[str, Path], name: str
) -> None:
    """The bfloat16 that is asked for is taken, and told of with a warning where it changes answers."""
    built, logs = build(weights[name], "tensorflow", precision="bfloat16")
    assert built.runtime.precision == "bfloat16"
    assert built.agreement is not None
    assert built.agreement.sufficient == (name == "robust")
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in warned] == (["precision changes answers"] if name == "fragile" else [])
    assert all("auto would use float32" in line["detail"] for line in warned)


@pytest.mark.ci
@pytest.mark.usefixtures("cache")
def test_float32_that_is_asked_for_or_all_there_is_is_compared_with_nothing(weights: dict[str, Path]) -> None:
    for built, logs in (
        build(weights["robust"], "openvino", precision="float32"),
        build(weights["robust"], "tensorflow", precision="float32"),
    ):
        assert (built.runtime.precision, built.agreement) == ("float32", None)
        assert [line["event"] for line in logs if line["event"] != "converting network"] == []


class _SeenError(Exception):
    """What was to be seen has been."""


@pytest.mark.usefixtures("_emulated", "cache")
def test_a_bundle_s_own_pictures_are_what_is_compared_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def series(own: Sequence[SampleImage], recipe: Recipe) -> Iterator[Any]:
        seen.append(({picture.name for picture in own}, recipe))
        raise _SeenError

    monkeypatch.setattr(variations, "series", series)
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    folder = Path(shutil.copytree(shipped.folder, tmp_path / "incomplete"))
    (folder / "golden" / "chelsea.png").unlink()  # that they cannot be read is for the gate to say
    for bundle in (shipped, bundles.read(folder)):
        with pytest.raises(_SeenError):
            building.build(bundle, "tensorflow")
    own = {"astronaut.png", "chelsea.png", "coffee.png", "rocket.png"}
    assert seen == [(own, shipped.recipe), (set(), shipped.recipe)]


@pytest.mark.usefixtures("native", "cache")
@pytest.mark.ci  # as above, where TensorFlow emulates it
@pytest.mark.parametrize(("name", "precision"), [("robust", "bfloat16"), ("fragile", "float32")])
def test_openvino_takes_bfloat16_where_the_network_keeps_its_answers(
    weights: dict[str, Path], name: str, precision: str
) -> None:
    built, _ = build(weights[name], "openvino", "tensorflow")
    assert (built.runtime.name, built.runtime.precision) == ("openvino", precision)
    assert built.agreement is not None
    assert built.agreement.sufficient == (precision == "bfloat16")
    again, logs = build(weights[name], "openvino", "tensorflow")
    assert (again.runtime.precision, again.agreement) == (precision, built.agreement)
    assert not COMPARED & {line["event"] for line in logs}


def _told(server: RunningServer) -> tuple[Any, dict[str, str]]:
    """What DescribeModel says of the runtime, and by name the lines of /metrics about precision."""
    with Client(server.target) as client:
        runtime = client.describe().runtime
    with urllib.request.urlopen(server.metrics_url) as reply:  # noqa: S310 - our own server
        lines = reply.read().decode().splitlines()
    return runtime, {line.split("{")[0]: line for line in lines if "precision=" in line}


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_was_compared_with_fewer_instructions_counts_with_these_alone(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    whole = OpenVINORuntime.processor()
    monkeypatch.setenv(variable, "AVX2")
    assert OpenVINORuntime.processor() != whole


@pytest.mark.ci
@pytest.mark.usefixtures("native")
def test_a_server_tells_why_it_computes_in_float32_at_its_first_and_next_start(
    weights: dict[str, Path], cache: Path, start_server: Callable[..., RunningServer]
) -> None:
    for events in (COMPARED, set()):
        server = start_server(f"--weights={weights['fragile']}", environment={"GLIMPSE_CACHE": str(cache)})
        server.wait_for("serving")
        assert {line["event"] for line in server.log} & COMPARED == events
        (fallen,) = [line for line in server.log if line["event"] == "precision falls back"]
        runtime, metrics = _told(server)
        assert runtime.precision == "float32"
        assert runtime.agreement.precision == "bfloat16"
        assert runtime.agreement.pictures == 200
        assert runtime.agreement.top1 < REQUIRED_SHARE
        assert fallen["agreement"] == pytest.approx(runtime.agreement.top1, abs=1e-4)
        assert 'precision="float32"' in metrics["glimpse_model_info"]
        assert 'precision="bfloat16"' in metrics["glimpse_precision_agreement"]
        assert float(metrics["glimpse_precision_agreement"].split()[-1]) == runtime.agreement.top1
        server.terminate()
        assert server.exit_code() == 0


def test_the_shipped_model_keeps_the_precision_that_the_processor_is_fastest_in(server: RunningServer) -> None:
    fastest = OpenVINORuntime.resolve("auto")
    runtime, metrics = _told(server)
    assert runtime.precision == fastest
    if fastest == "float32":
        assert runtime.agreement is None
        assert "glimpse_precision_agreement" not in metrics
    else:
        assert runtime.agreement.precision == fastest
        assert runtime.agreement.top1 >= REQUIRED_SHARE
        assert runtime.agreement.pictures >= MIN_PICTURES
    assert f'precision="{fastest}"' in metrics["glimpse_model_info"]
    loaded = server.wait_for("model loaded")
    assert json.dumps(loaded.get("agreement")) == json.dumps(runtime.agreement and runtime.agreement.top1)
