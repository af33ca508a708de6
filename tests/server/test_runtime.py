"""Runtimes on the embedded model: OpenVINO against TensorFlow in float32, and how one of them is chosen."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import structlog
from numpy.typing import NDArray
from skimage import data

from glimpse.models import bundle as bundles
from glimpse.models import sources
from glimpse.models.bundle import Bundle
from glimpse.models.outputs import CLASS_MAPS, EMBEDDING, FEATURE_STATISTICS, LOGITS, PROBABILITIES
from glimpse.models.serving import load_bundle, serving_outputs
from glimpse.server.machine import cores
from glimpse.server.runtime import OneStream, Runtime, UnsupportedNetworkError, openvino_library, selection
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.openvino_graphs import convert
from glimpse.server.runtime.tensorflow import TensorFlowRuntime, compiled, with_values
from glimpse.server.runtimes import RuntimeName
from tests.conftest import ROOT
from tests.server.building import build

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="both runtimes build on TensorFlow")


BOTH = frozenset({PROBABILITIES, LOGITS})
MAPS = frozenset({PROBABILITIES, CLASS_MAPS})
TEMPERATURE = bundles.read(bundles.EMBEDDED_DEFAULT).temperature


@pytest.fixture(scope="module")
def embedded() -> keras.Model:
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    return serving_outputs(load_bundle(bundle), bundle.recipe, bundle.temperature)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """64 pieces of real photographs, ``[64, 32, 32, 3]``."""
    rng = np.random.default_rng(0)
    photos = [data.chelsea(), data.coffee(), data.astronaut(), data.rocket()]
    pieces = []
    for number in range(64):
        photo = photos[number % 4][:: 1 + number % 5, :: 1 + number % 5]
        top, left = (rng.integers(0, side - 31) for side in photo.shape[:2])
        pieces.append(photo[top : top + 32, left : left + 32])
    return np.stack(pieces)


@pytest.fixture(scope="module")
def reference(embedded: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return TensorFlowRuntime(embedded, "float32")(pixels)[PROBABILITIES]


@pytest.fixture(scope="module")
def fast(graph: Path) -> OpenVINORuntime:
    return OpenVINORuntime(graph, "float32")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    model = serving_outputs(load_bundle(bundle), bundle.recipe, bundle.temperature, whole_maps=True)
    return convert(with_values(model), tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="module")
def resizing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network of a user's own with an operation that OpenVINO lacks."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Resizing(4, 4, interpolation="bicubic")(inputs)
    path = tmp_path_factory.mktemp("own") / "resizing.keras"
    with warnings.catch_warnings():
        # Keras hands TensorFlow's variables to NumPy, whose `__array__` is older than NumPy 2's `copy`: not ours.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))).save(path)
    (path.parent / "labels.txt").write_text("a\nb\nc\n")
    (path.parent / "recipe.toml").write_text("height = 8\nwidth = 8\n")
    return sources.resolve(sources.ModelSource(weights=str(path)))


@pytest.mark.parametrize(("streams", "compiled_for"), [(1, [1]), (2, [1, 2]), (4, [1, 4])])
def test_openvino_compiles_for_no_more_streams_than_are_used(
    graph: Path, pixels: NDArray[np.uint8], streams: int, compiled_for: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one, which a lone image takes, and for as many as an earlier start has kept."""
    made = list[int]()
    compile_for = OpenVINORuntime._compiled

    def noted(self: OpenVINORuntime, network: Any, number: int) -> Any:
        made.append(number)
        return compile_for(self, network, number)

    monkeypatch.setattr(OpenVINORuntime, "_compiled", noted)
    monkeypatch.setattr("glimpse.server.machine.cores.available", lambda: 4)
    runtime = OpenVINORuntime(graph, "float32")
    runtime.use_streams(streams)
    expected = runtime.alone(pixels[:2])[PROBABILITIES]
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(runtime, [pixels[:2]] * 8):
            np.testing.assert_allclose(found[PROBABILITIES], expected, atol=1e-5)
    assert made == compiled_for


def test_openvino_in_float32_gives_the_probabilities_of_tensorflow(
    fast: OpenVINORuntime, pixels: NDArray[np.uint8], reference: NDArray[np.float32]
) -> None:
    assert len(set(reference.argmax(1))) > 4, "the photos must not all be one class"
    for size in (1, 8, 64):
        found = fast(pixels[:size])[PROBABILITIES]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference[:size], atol=1e-4)
        np.testing.assert_array_equal(found.argmax(1), reference[:size].argmax(1))


@pytest.mark.ci
def test_xla_gives_the_probabilities_of_the_frozen_graph(
    embedded: keras.Model, pixels: NDArray[np.uint8], reference: NDArray[np.float32]
) -> None:
    found, *_ = compiled(embedded)(pixels[:4])
    np.testing.assert_allclose(found.numpy(), reference[:4], atol=1e-4)


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_an_answer_outlives_the_next_batch_and_its_own_pixels(
    name: RuntimeName, fast: OpenVINORuntime, embedded: keras.Model, pixels: NDArray[np.uint8]
) -> None:
    runtime: Runtime = fast if name == "openvino" else TensorFlowRuntime(embedded, "float32")
    staging = pixels[:4].copy()
    first = runtime(staging, BOTH)
    kept = {name: values.copy() for name, values in first.items()}
    staging[:] = pixels[4:8]
    second = runtime(staging, BOTH)
    for output in BOTH:
        np.testing.assert_array_equal(first[output], kept[output])
        assert not np.array_equal(first[output], second[output])


@pytest.mark.parametrize("name", ["openvino", "tensorflow"])
def test_logits_are_what_the_probabilities_are_the_softmax_of(
    name: RuntimeName, fast: OpenVINORuntime, embedded: keras.Model, pixels: NDArray[np.uint8]
) -> None:
    runtime: Runtime = fast if name == "openvino" else TensorFlowRuntime(embedded, "float32")
    assert runtime.outputs == BOTH | {EMBEDDING, CLASS_MAPS}
    for compute in (runtime, runtime.alone):
        found = compute(pixels[:4], BOTH)
        assert found.keys() == BOTH
        scaled = np.exp(found[LOGITS] / TEMPERATURE)
        np.testing.assert_allclose(scaled / scaled.sum(axis=1, keepdims=True), found[PROBABILITIES], atol=1e-5)
        assert compute(pixels[:4]).keys() == {PROBABILITIES}
        assert compute(pixels[:4], frozenset({LOGITS})).keys() == {LOGITS}


def test_statistics_of_an_inner_layer_are_equal_and_only_where_asked_for(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    """Beside the same other outputs, with maps and without, of a lone batch and of one among others."""
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    assembly, layer = load_bundle(bundle), bundle.statistics_layer
    whole = serving_outputs(assembly, bundle.recipe, bundle.temperature, statistics=layer, whole_maps=True)
    model = serving_outputs(assembly, bundle.recipe, bundle.temperature, statistics=layer)
    two = (
        OpenVINORuntime(convert(with_values(whole), tmp_path), "float32"),
        TensorFlowRuntime(model, "float32"),
    )
    found = []
    for runtime in two:
        assert runtime.outputs == BOTH | {EMBEDDING, CLASS_MAPS, FEATURE_STATISTICS}
        plain = runtime(pixels[:4])
        for compute in (runtime, runtime.alone):
            for wanted in (frozenset({LOGITS, FEATURE_STATISTICS}), BOTH | {CLASS_MAPS, FEATURE_STATISTICS}):
                answer = compute(pixels[:4], wanted)
                assert answer.keys() == wanted
                found.append(answer[FEATURE_STATISTICS])
        np.testing.assert_allclose(answer[PROBABILITIES], plain[PROBABILITIES], atol=1e-5)
    for each in found:
        np.testing.assert_allclose(each, found[0], rtol=1e-4, atol=1e-4)


def test_openvino_computes_in_bfloat16_only_if_the_processor_can_and_says_so(graph: Path) -> None:
    if "BF16" in openvino_library.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert OpenVINORuntime(graph, "auto").precision == "bfloat16"
    else:
        assert OpenVINORuntime(graph, "auto").precision == "float32"
        with pytest.raises(ValueError, match="cannot compute in bfloat16"):
            OpenVINORuntime(graph, "bfloat16")


_TWO_GO = """
import gc, signal
import numpy as np
from glimpse.server.runtime import openvino_graphs as runtime
from glimpse.server.runtime.openvino_library import openvino, ops

def network():
    pixels = ops.parameter([-1, 4], np.float32)
    return openvino.Model([ops.relu(pixels)], [pixels])

received = []
signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
first, second = runtime.compiled(network()), runtime.compiled(network())
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGUSR1)
assert received == [signal.SIGUSR1]
"""


def test_signals_are_handled_after_two_networks_have_gone_as_they_came() -> None:
    """Each `openvino.Core` brings a stack for signals; of two, the last to go would put back the one freed before."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", _TWO_GO], env=environment, check=False).returncode == 0


def test_auto_is_openvino_on_a_machine_without_a_gpu() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    assert selection.choose("auto") == ("openvino", "tensorflow")


def test_a_network_that_openvino_lacks_falls_to_tensorflow_with_a_warning(resizing: Bundle) -> None:
    with structlog.testing.capture_logs() as logs:
        runtime = build(resizing, "openvino", "tensorflow").runtime
    assert runtime.name == "tensorflow"
    (warning,) = (line for line in logs if line["log_level"] == "warning")
    assert (warning["log_level"], warning["runtime"], warning["instead_of"]) == ("warning", "tensorflow", "openvino")
    assert "ResizeBicubic" in warning["detail"]


def test_a_network_that_openvino_lacks_is_refused_where_openvino_was_named(resizing: Bundle) -> None:
    with pytest.raises(UnsupportedNetworkError, match="ResizeBicubic"):
        build(resizing, "openvino")


def test_a_runtime_that_is_not_installed_is_refused_with_what_to_install() -> None:
    # A finder that comes first and knows of none of them, as in an environment without them.
    script = (
        "import importlib.machinery, sys\n"
        "class Without(importlib.machinery.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        known = name not in ('jax', 'torch', 'openvino')\n"
        "        return super().find_spec(name, path, target) if known else None\n"
        "sys.meta_path = [Without if found is importlib.machinery.PathFinder else found for found in sys.meta_path]\n"
        "from glimpse.server.runtime import selection\n"
    )
    for name, package, extra in (
        ("jax", "jax", "jax"),
        ("torch", "torch", "torch"),
        ("openvino", "openvino", "server"),
    ):
        ended = _python(script + f"selection.choose({name!r})")
        assert ended.returncode == 1
        last = ended.stderr.splitlines()[-1]
        assert f"needs {package}, which is not installed" in last
        assert f"pip install 'glimpse-serve[{extra}]'" in last
    assert _python(script + "assert selection.choose('auto') == ('tensorflow',)").returncode == 0


def test_a_backend_that_keras_has_not_been_loaded_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(selection, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="needs Keras on jax; this process has loaded it on tensorflow"):
        selection.choose("jax")


def test_openvino_reports_nothing_to_anybody(tmp_path: Path) -> None:
    ended = _python(
        "import glimpse.server.runtime.openvino, sys; print(sys.modules['openvino_telemetry'])", HOME=str(tmp_path)
    )
    assert ended.stdout == "None\n"
    assert not (tmp_path / "intel").exists(), "where its reports keep who they are about"


@pytest.mark.parametrize(
    ("own", "outer", "expected"),
    [("150000 100000", "max 100000", 2), ("max 100000", "50000 100000", 1), ("max 100000", "max 100000", 4)],
)
def test_threads_follow_the_quota_of_the_container_and_of_those_around_it(
    own: str, outer: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    (tmp_path / "pod" / "ours").mkdir(parents=True)
    (tmp_path / "pod" / "ours" / "cpu.max").write_text(f"{own}\n")
    (tmp_path / "pod" / "cpu.max").write_text(f"{outer}\n")
    (tmp_path / "cgroup").write_text("1:cpu:/elsewhere\n0::/pod/ours\n")
    assert cores.available(tmp_path / "cgroup", tmp_path) == expected
    assert cores.available(tmp_path / "missing", tmp_path) == 4


@pytest.mark.parametrize(("quota", "expected"), [("150000", 2), ("50000", 1), ("-1", 4)])
def test_threads_follow_the_quota_of_version_1_of_the_control_groups_too(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container its own group stands where the machine has the outermost one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cgroup").write_text("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n")
    assert cores.available(tmp_path / "cgroup", tmp_path) == expected


def _python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (0, (1, 2, 4, 8, 16, 32))]
)
def test_sizes_that_are_compiled_one_by_one_double_up_to_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert OneStream().batch_sizes(largest, multiply_adds=10**9) == sizes


@pytest.mark.parametrize(
    ("largest", "multiply_adds", "sizes"),
    [
        (0, 10**8, tuple(range(1, 9))),
        (0, 569 * 10**6, (1, 2)),
        (0, 4 * 10**9, (1,)),
        (0, 0, tuple(range(1, 9))),
        (20, 4 * 10**9, (*range(1, 9), 12, 16, 20)),
    ],
)
def test_on_openvino_the_smaller_the_network_the_larger_the_batch(
    graph: Path, largest: int, multiply_adds: int, sizes: tuple[int, ...]
) -> None:
    assert OpenVINORuntime(graph).batch_sizes(largest, multiply_adds) == sizes


def test_openvino_gives_the_same_answers_on_any_number_of_streams(graph: Path, pixels: NDArray[np.uint8]) -> None:
    runtime = OpenVINORuntime(graph, "float32")
    expected = runtime(pixels[:16])[PROBABILITIES]
    for streams in (1, 2, 3):
        beside = runtime.side_by_side(streams)
        runtime.use_streams(streams)
        assert runtime.streams == streams
        with ThreadPoolExecutor(streams) as callers:
            found = [*callers.map(lambda _: runtime(pixels[:16])[PROBABILITIES], range(2 * streams))]
            found += callers.map(lambda _: beside(pixels[:16], BOTH)[PROBABILITIES], range(2 * streams))  # noqa: B023
        found += [runtime.alone(pixels[:16])[PROBABILITIES], runtime(pixels[:16], MAPS)[PROBABILITIES]]
        for answer in found:
            np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_all_streams_at_once_and_a_lone_image_give_the_same_answers(graph: Path) -> None:
    runtime = OpenVINORuntime(graph)
    images = np.random.default_rng(1).integers(0, 255, (4 * runtime.streams, 32, 32, 3), np.uint8)
    expected = np.stack([runtime.alone(image[np.newaxis])[PROBABILITIES][0] for image in images])
    with ThreadPoolExecutor(2 * runtime.streams) as callers:
        found = list(callers.map(lambda image: runtime(image[np.newaxis])[PROBABILITIES][0], images))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
