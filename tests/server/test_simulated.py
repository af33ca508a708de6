"""The simulated device: it takes the time that is stated on no core, and says everywhere that it is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.client import Client
from glimpse.models import sources
from glimpse.models.child_environment import child_environment
from glimpse.models.outputs import DEFAULT_OUTPUTS, LOGITS, PROBABILITIES, Outputs
from glimpse.server.runtime import golden_check, selection
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtime.serving import serve
from glimpse.server.runtime.simulated import H100_RATES, SimulatedDevice, SimulatedRuntime
from glimpse.server.runtimes import RUNTIMES
from glimpse.server.settings import load as load_settings
from tests.conftest import RunningServer

TIMES = {"GLIMPSE_RUNTIME": "simulated", "GLIMPSE_SIMULATED_SECONDS": json.dumps({"1": 0.001, "4": 0.002})}


def test_a_server_with_a_simulated_device_says_so(start_server: Callable[..., RunningServer]) -> None:
    """In its log, in each reply and in the description: nobody takes its answers for real."""
    server = start_server(environment={**TIMES, "GLIMPSE_WEIGHTS": "cifar10"})
    server.wait_for("serving")
    said = server.wait_for("simulated device")
    assert (said["level"], said["model"]) == ("warning", "se_resnet20_cifar10_simulated")
    assert "golden answers are not checked" in said["detail"]
    with Client(server.target) as client:
        result = client.classify(np.zeros((32, 32, 3), np.uint8)).raise_for_error()
        assert result.model is not None
        assert result.model.name == "se_resnet20_cifar10_simulated"
        shares = [each.probability for each in result.predictions]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > shares[1] > 0
        described = client.describe()
        assert (described.runtime.name, described.runtime.device) == ("simulated", "simulated")
        assert described.runtime.batch_sizes == (1, 4)
        assert described.parameters == 0


def test_a_model_that_must_give_its_answers_is_refused(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(environment={**TIMES, "GLIMPSE_WEIGHTS": "cifar10", "GLIMPSE_GOLDEN": "require"})
    assert server.process.wait(60) == 5
    assert "a simulated device computes no answers" in server.wait_for("cannot start")["detail"]


def test_a_batch_sleeps_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    runtime = SimulatedRuntime(SimulatedDevice.of(10, {1: 0.5, 8: 2.0}))
    found = runtime(np.zeros((8, 4, 4, 3), np.uint8), frozenset({PROBABILITIES, LOGITS}))
    assert slept == [2.0]
    assert {name: values.shape for name, values in found.items()} == {PROBABILITIES: (8, 10), LOGITS: (8, 10)}
    assert found[PROBABILITIES].dtype == np.float32
    assert found[PROBABILITIES].sum(axis=1) == pytest.approx(np.ones(8))


@pytest.mark.parametrize(("size", "seconds"), [(1, 0.5), (2, 0.5), (3, 1.0), (4, 1.5), (8, 3.0)])
def test_sizes_that_are_not_stated_follow_from_those_that_are(size: int, seconds: float) -> None:
    assert SimulatedDevice.of(10, {2: 0.5, 4: 1.5}).batch_seconds(size) == pytest.approx(seconds)


def test_without_times_it_is_the_h100_of_the_table() -> None:
    device = SimulatedDevice.of(1000, {})
    for size, rate in H100_RATES.items():
        assert size / device.batch_seconds(size) == pytest.approx(rate)


@pytest.mark.parametrize(("largest", "sizes"), [(0, (1, 4, 16)), (4, (1, 4)), (8, (1, 4, 8)), (32, (1, 4, 16, 32))])
def test_batches_have_the_stated_sizes(largest: int, sizes: tuple[int, ...]) -> None:
    runtime = SimulatedRuntime(SimulatedDevice.of(10, {1: 1.0, 4: 2.0, 16: 3.0}))
    assert runtime.batch_sizes(largest, 0) == sizes


def test_auto_never_takes_a_simulated_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nothing else is installed."""
    monkeypatch.setattr(selection, "_missing", lambda row: row.packages)
    monkeypatch.setattr(selection, "_installed_on_gpu", lambda: ())
    with pytest.raises(ValueError, match="No runtime is installed"):
        selection.choose("auto")


def test_choosing_it_leaves_keras_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert selection.choose("simulated") == ("simulated",)
    assert "KERAS_BACKEND" not in os.environ


def test_a_simulated_model_is_loaded_without_a_framework() -> None:
    load = (
        "import sys; from glimpse.server.loading.loading import load_configured; "
        "from glimpse.server.metrics.metrics import Metrics; "
        "from glimpse.server.settings import load; "
        "load_configured(load(['--runtime=simulated', '--weights=cifar10']), Metrics().of).close(); "
        "print(sorted({'keras', 'tensorflow', 'openvino', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", load], env=child_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_has_float32_alone() -> None:
    assert SimulatedRuntime.resolve("auto") == SimulatedRuntime.resolve("float32") == "float32"
    with pytest.raises(ValueError, match="computes nothing"):
        SimulatedRuntime.resolve("bfloat16")


@pytest.mark.parametrize("text", ['{"0": 1}', '{"1": 0}', '{"1": -1}', '{"many": 1}', "[1]", '{"1": "soon"}'])
def test_times_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="simulated_seconds"):
        load_settings([f"--simulated-seconds={text}"])


def test_times_are_read_from_json() -> None:
    settings = load_settings(['--simulated-seconds={"1": 0.25, "64": 2}'])
    assert settings.simulated_seconds == {1: 0.25, 64: 2.0}


def test_two_streams_are_warmed_from_opposite_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that of two threads none compiles what the other is compiling at that moment."""
    together, orders = threading.Barrier(2), defaultdict[int, list[int]](list)

    def compute(_: object, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        if (thread := threading.get_ident()) != threading.main_thread().ident:
            if thread not in orders:
                together.wait(60)
            orders[thread].append(len(pixels))
        return dict.fromkeys(outputs, np.ones((len(pixels), 1), np.float32))

    monkeypatch.setattr(SimulatedRuntime, "streams", 2)
    monkeypatch.setattr(SimulatedRuntime, "__call__", compute)
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    imported = import_model(bundle, RUNTIMES["simulated"], simulated_seconds={1: 0.0, 4: 0.0, 8: 0.0})
    assert serve(imported, golden_check.of_simulated(bundle, "auto"), precision="auto").batch_sizes == (1, 4, 8)
    assert sorted(orders.values()) == [[1, 4, 8], [8, 4, 1]]
