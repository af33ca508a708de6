"""A runtime knows its own out-of-memory: real ones, in a process with a limit, which goes on afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = """
import os, resource, sys
sys.path[:0] = [".", "src"]
import numpy as np
from glimpse.models import sources
from glimpse.models.serving import load_bundle, serving_outputs
from pathlib import Path
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.openvino_graphs import convert
from glimpse.server.runtime.tensorflow import TensorFlowRuntime, with_values

bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
model = serving_outputs(load_bundle(bundle), bundle.recipe, bundle.temperature)
if len(sys.argv) > 2:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
pixels = np.random.default_rng(0).integers(0, 256, (8192, 32, 32, 3), np.uint8)
graph = convert(with_values(model), Path(sys.argv[1]))
runtimes = ((OpenVINORuntime(graph, "float32"), 2048, 8), (TensorFlowRuntime(model, "float32"), 8192, 64))
for runtime, many, room in runtimes:
    few = runtime(pixels[:2])["probabilities"]
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (room << 20), before[1]))
    try:
        runtime(pixels[:many])
    except Exception as error:
        assert runtime.out_of_memory(error), repr(error)
    else:
        raise AssertionError(f"{many} images fit into {runtime.name}")
    resource.setrlimit(resource.RLIMIT_AS, before)
    for _ in range(3):
        np.testing.assert_allclose(runtime(pixels[:2])["probabilities"], few, atol=1e-6)
    assert not runtime.out_of_memory(ValueError("another defect"))
    print(runtime.name)
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    "cores", [pytest.param((), id="all cores"), pytest.param(("one",), id="one core", marks=pytest.mark.slow)]
)
def test_openvino_and_tensorflow_tell_when_a_batch_does_not_fit_and_go_on(
    cores: tuple[str, ...], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *cores],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.stdout.split() == ["openvino", "tensorflow"], ended.stderr
