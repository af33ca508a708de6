"""The OpenVINO runtime: TensorFlow's graph, converted beforehand, on a CPU. Neither Keras nor TensorFlow is needed."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glimpse.models.map_rows import packed
from glimpse.models.messages import lacks_memory
from glimpse.models.outputs import (
    CLASS_MAPS,
    DEFAULT_OUTPUTS,
    EMBEDDING,
    FEATURE_STATISTICS,
    HIDDEN,
    LOGITS,
    PROBABILITIES,
    Outputs,
)
from glimpse.server.machine import cores
from glimpse.server.runtime.openvino_graphs import errors_of_openvino, exact
from glimpse.server.runtime.openvino_library import core, openvino
from glimpse.server.runtime.openvino_requests import Requests, indices
from glimpse.server.runtimes import PRECISIONS, QUANTISED, Precision
from glimpse.server.settings.kinds import PrecisionChoice

_WORTH = 1_000_000_000  # multiply-adds in a batch beyond which a core gains nothing; tools/bench measures it
_LARGEST = 8
_OUTPUTS = frozenset({PROBABILITIES, LOGITS, EMBEDDING, CLASS_MAPS, FEATURE_STATISTICS})
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}  # oneDNN's names


class OpenVINORuntime:
    """Runs a converted serving model on the CPU."""

    name = "openvino"
    device = "cpu"

    def __init__(self, graph: Path, precision: PrecisionChoice = "auto") -> None:
        """Compile a network, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Args:
            graph: from `openvino_graphs.convert`. The file beside it stays mapped into memory; it may be unlinked, but
                not changed.
            precision: ``auto`` is bfloat16 where the processor has instructions for it, else float32.

        Raises:
            ValueError: bfloat16 is asked for, and the processor does not have it.
            UnsupportedNetworkError: OpenVINO cannot compile the network.
            MemoryError: there was not enough.
        """
        self.precision = self.resolve(precision)
        self.streams = self._threads = cores.available()
        options = {
            # Left to itself, OpenVINO takes bfloat16 where it can, and tells nobody.
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision].openvino_hint,
            "INFERENCE_NUM_THREADS": self._threads,
            # Decoding and gRPC run on the same cores. A thread that is pinned beside them waits; another one moves.
            "ENABLE_CPU_PINNING": False,
        }
        if self.precision != QUANTISED:  # networks that are quantised here have weights small enough
            options |= exact()
        with errors_of_openvino("openvino cannot compile this network"):
            whole = core().read_model(graph)
            self._network = _without(whole, HIDDEN)
            self._options = options
            # With no streams at all OpenVINO would keep no threads for a model, and compute in those of the caller. But
            # then it takes one batch at a time, so that each core needed a copy of the weights (72 MiB become 117 for
            # ResNet18 on two cores), and one of seven trials in which two threads did so never came back.
            #
            # A core for each batch: threads that share one wait for the slowest of them at every layer, and beside
            # decoding and gRPC one of them is always slow. It is compiled once it is known how many are best here.
            self._narrow: Requests | None = None
            # For a lone image, which all cores answer sooner than one.
            self._wide = self._compiled(self._network, 1)
        # A tensor may have other names besides, of layers whose output it is, too.
        self.outputs = _OUTPUTS & indices(whole).keys()
        batch = self._network.inputs[0].partial_shape[0]
        # Of a graph of another framework, where it is part of the graph.
        self._batch = int(batch.get_length()) if batch.is_static else None
        # OpenVINO computes all that a compiled network gives, so one with maps is compiled when the first is asked for,
        # and so is one with statistics of an inner layer. By the outputs, and how many batches it computes at once.
        self._whole = whole
        self._with_more: dict[tuple[frozenset[str], int], Requests] = {}
        self._compiling = threading.Lock()

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when told `precision`: ``auto`` is the fastest that the processor has.

        Raises:
            ValueError: bfloat16 is asked for, and the processor does not have it.
        """
        has_bfloat16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and not _limited()
        if precision == "auto":
            return "bfloat16" if has_bfloat16 else "float32"
        if precision == "bfloat16" and not has_bfloat16:
            raise ValueError(
                f"This processor ({core().get_property('CPU', 'FULL_DEVICE_NAME').strip()}) cannot compute in bfloat16 "
                "with openvino. Set GLIMPSE_PRECISION to auto or float32."
            )
        return precision

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal. oneDNN may be told to use fewer instructions."""
        capabilities = sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return " ".join([cores.processor(), *capabilities, _limit()])

    def batch_sizes(self, largest: int, multiply_adds: int) -> tuple[int, ...]:
        """Every size up to 8, so that small batches need no padding.

        What a batch saves a core is the cost of getting from one layer to the next; once a layer's arithmetic outweighs
        it, more images only take longer, and fall out of the cache. So the smaller the network, the larger the batch.
        A graph that takes batches of one size only gets that.
        """
        if self._batch is not None:
            return (self._batch,)
        largest = largest or max(1, min(_LARGEST, math.ceil(_WORTH / max(1, multiply_adds))))
        return (*(size for size in (*range(1, 9), 12, 16, 24, 32, 48, 64, 96, 128) if size < largest), largest)

    def side_by_side(self, streams: int) -> Callable[[NDArray[np.uint8], frozenset[str]], Outputs]:
        """What computes so many batches at once, for measuring, with places of its own for them."""
        if streams in {1, self.streams}:
            return self._plain(streams).more().infer
        return self._compiled(self._network, streams).infer

    def use_streams(self, streams: int) -> None:
        """From now on compute so many batches at once, on as many cores each as there are for it."""
        if streams != self.streams:
            self._narrow = None  # before another one is made: two at a time are what memory is counted for
            self.streams = streams

    def _compiled(self, network: openvino.Model, streams: int) -> Requests:
        """The network for so many batches at once, on all cores."""
        with errors_of_openvino("openvino cannot compile this network"):
            hint = "LATENCY" if streams == 1 < self._threads else "THROUGHPUT"
            made = core().compile_model(
                network, "CPU", {**self._options, "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
            )
        return Requests(made, streams, threads=self._threads)

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The outputs of these names of uint8 pixels ``[N, H, W, C]``, as one of `streams` batches."""
        return self._infer(pixels, outputs, wide=False)

    def alone(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The same, on all cores."""
        return self._infer(pixels, outputs, wide=True)

    def _infer(self, pixels: NDArray[np.uint8], outputs: frozenset[str], *, wide: bool) -> Outputs:
        if CLASS_MAPS in outputs:
            return self._explained(pixels, outputs)
        if more := outputs & HIDDEN:
            return self._more(more, wide=wide).infer(pixels, outputs)
        return self._plain(1 if wide else self.streams).infer(pixels, outputs)

    def _plain(self, streams: int) -> Requests:
        """Places for so many batches, which are 1 or those of the runtime, without what few requests ask for."""
        if streams == 1:
            return self._wide
        if (made := self._narrow) is None:
            with self._compiling:
                if (made := self._narrow) is None:
                    made = self._narrow = self._compiled(self._network, streams)
        return made

    def _more(self, hidden: frozenset[str], *, wide: bool) -> Requests:
        """Places for batches whose network has these outputs, too."""
        streams = 1 if wide else self.streams
        with self._compiling:
            if (made := self._with_more.get((hidden, streams))) is None:
                made = self._compiled(_without(self._whole, HIDDEN - hidden), streams)
                self._with_more[hidden, streams] = made
            return made

    def _explained(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        """The outputs with the maps of the most probable classes."""
        found = self._more(outputs & HIDDEN, wide=False).infer(pixels, outputs | {LOGITS})
        maps = found[CLASS_MAPS]
        rows = packed(found[LOGITS], maps.shape[1:3], lambda image, classes: maps[image][..., classes])
        return {name: rows if name == CLASS_MAPS else found[name] for name in outputs}

    def prepare_maps(self) -> None:
        """Compile the network with the maps, which takes as long as without them."""
        self._more(frozenset({CLASS_MAPS}), wide=False)

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error` says that the batch does not fit."""
        return lacks_memory(error)


def _without(network: openvino.Model, names: frozenset[str]) -> openvino.Model:
    """The same network without those outputs of these names that it has; it shares the weights."""
    if not names & indices(network).keys():
        return network
    plain = network.clone()
    for result in [each for each in plain.outputs if names & each.get_names()]:
        plain.remove_result(result.get_node())
    return plain


def _limited() -> bool:
    """Whether the environment forbids the instructions that bfloat16 is computed with.

    OpenVINO asks the processor alone what it can, and crashes where oneDNN, which computes for it, may not do that.
    """
    return _limit() in _WITHOUT_BFLOAT16


def _limit() -> str:
    """The most instructions that oneDNN may use by the environment, by its name for them; empty: all."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
