"""How the batch sizes of a GPU are warmed: their programs are loaded side by side, and each stream computes all."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse.models import sources
from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.models.spec import NetworkSummary
from glimpse.server.runtime import OneStream, batch_rates, builder, golden_check, importing, serving
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtimes import RUNTIMES
from tests.server.fake_executor import WAIT

SUMMARY = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)


class Loading(OneStream):
    """Loads what computes a size at the first batch of it, which ends only when two sizes are being loaded."""

    name, device, outputs, streams, precision = "jax", "gpu:0", DEFAULT_OUTPUTS, 2, "float32"

    def __init__(self, *_: object) -> None:
        self.sizes: Counter[int] = Counter()
        self.both = threading.Barrier(2)
        self._lock = threading.Lock()

    @classmethod
    def resolve(cls, precision: str) -> str:
        return precision

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        with self._lock:
            self.sizes[len(pixels)] += 1
            first = self.sizes[len(pixels)] == 1
        if first and len(pixels) in {2, 4}:
            self.both.wait(WAIT)
        answer = np.full((len(pixels), 10), 0.1, np.float32)
        return dict.fromkeys(outputs, answer)


def test_a_later_start_loads_programs_of_several_sizes_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(batch_rates, "useful_sizes_kept", lambda *_, **__: (1, 2, 4))
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    runtime = Loading()
    monkeypatch.setattr(importing, "implementation", lambda _: Loading)
    imported = ImportedModel(bundle, SUMMARY, RUNTIMES["jax"], lambda: None)
    monkeypatch.setattr(builder, "build", lambda *_, **__: builder.BuiltRuntime(runtime, None))
    served = serving.serve(imported, golden_check.load(bundle, "off"), precision="float32")
    assert served.batch_sizes == (1, 2, 4)
    assert runtime.sizes == {1: 4, 2: 3, 4: 3}, "once to load it, once on each stream, and the first image"
