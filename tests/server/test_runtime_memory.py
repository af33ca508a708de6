"""A runtime knows its own out-of-memory: real ones, in a process with a limit, which goes on afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SCRIPT = """
import resource, sys
sys.path[:0] = [".", "proto"]
import numpy as np
from models import sources
from models.serving import load_bundle, serving_model
from pathlib import Path
from server.runtime.openvino import OpenVINORuntime, convert
from server.runtime.tensorflow import TensorFlowRuntime, with_values

bundle = sources.resolve(sources.Source(weights="cifar10"))
model = serving_model(load_bundle(bundle), bundle.recipe, bundle.temperature)
pixels = np.zeros((8192, 32, 32, 3), np.uint8)
graph = convert(with_values(model), Path(sys.argv[1]))
for runtime in (OpenVINORuntime(graph, "float32"), TensorFlowRuntime(model, "float32")):
    runtime(pixels[:2])
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), before[1]))
    try:
        runtime(pixels)
    except Exception as error:
        assert runtime.out_of_memory(error), repr(error)
    else:
        raise AssertionError(f"8192 images fit into {runtime.name}")
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert runtime(pixels[:2]).shape == (2, 10)
    assert not runtime.out_of_memory(ValueError("another defect"))
    print(runtime.name)
"""


def test_openvino_and_tensorflow_tell_when_a_batch_does_not_fit_and_go_on(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.stdout.split() == ["openvino", "tensorflow"], ended.stderr
