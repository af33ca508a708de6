"""The PyTorch runtime: a network of Keras on PyTorch, traced once, so that no Python runs within a batch."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from glimpse.models.outputs import Outputs
from glimpse.server.machine import cores
from glimpse.server.runtime import OneStream, outputs_with, stated, torch_program
from glimpse.server.runtime.kept_network import KeptNetwork
from glimpse.server.runtime.torch_program import Program
from glimpse.server.runtimes import GPU_STREAMS, PRECISIONS, Precision
from glimpse.server.settings.kinds import PrecisionChoice

if TYPE_CHECKING:
    import keras

_BEFORE_CAPTURE = 2  # runs: libraries choose their algorithms and take their workspace in the first ones
_log = structlog.get_logger(__name__)
_capturing = threading.Lock()  # CUDA captures one graph at a time in a process


class TorchRuntime(OneStream):
    """Runs a network on the first GPU, or on the CPU: a serving model of Keras, or what was traced of one.

    Keras keeps images as ``[N, H, W, C]`` and hands PyTorch a view of them as ``[N, C, H, W]``: what PyTorch calls
    channels_last, which is the layout that tensor cores and oneDNN want.
    """

    name = "torch"

    def __init__(self, network: keras.Model | KeptNetwork, precision: PrecisionChoice = "auto") -> None:
        """Trace a network, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Args:
            network: a model as `models.serving` makes it; bfloat16 is set in its layers. Or one that was kept, in that
                precision, which needs no Keras.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it, and float32 elsewhere.

        Raises:
            ValueError, OSError: what was kept cannot be read.
        """
        torch.set_num_threads(cores.available())
        gpu = torch.cuda.is_available()
        self.device = "gpu:0" if gpu else "cpu"
        # A CPU has no engine for copies beside its cores.
        self.streams = GPU_STREAMS if gpu else 1
        self.precision = self.resolve(precision)
        # Else a GPU rounds the factors of every float32 product to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        device = torch.device("cuda" if gpu else "cpu")
        traced = (
            torch_program.read(network, device)
            if isinstance(network, KeptNetwork)
            else torch_program.trace(network, device, PRECISIONS[self.precision])
        )
        self._traced = traced
        self.outputs, self.maps_head = outputs_with(traced.names, traced.maps_head), traced.maps_head
        self._index = {name: index for index, name in enumerate(traced.names)}
        self._program = traced.program
        self._places: queue.SimpleQueue[_GpuPlace] = queue.SimpleQueue()
        for _ in range(self.streams if gpu else 0):
            self._places.put(_GpuPlace(self._program))

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Write the traced network into files of an empty folder, see `kept_network.Keepable`."""
        return torch_program.save(self._traced, folder)

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when told `precision`: ``auto`` is the fastest that the device has."""
        if precision != "auto":
            return stated(precision, cls.name)
        multiplies = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if multiplies else "float32"

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else super().processor()

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        wanted = {name: self._index[name] for name in outputs}
        if self.device == "cpu":
            with torch.inference_mode():
                found = self._program(torch.from_numpy(pixels))
            return {name: found[index].numpy() for name, index in wanted.items()}
        place = self._places.get()
        try:
            return place.compute(pixels, wanted)
        finally:
            self._places.put(place)

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error` says that the batch does not fit; on a CPU PyTorch has no type of its own for it.

        A traced program raises a RuntimeError whose text holds the name of the error within it.
        """
        if isinstance(error, torch.OutOfMemoryError) or super().out_of_memory(error):
            return True
        known = ("can't allocate memory", "CUDA out of memory", "OutOfMemoryError")
        return isinstance(error, RuntimeError) and any(each in str(error) for each in known)


class _GpuPlace:
    """A place for one batch at a time: a stream of the GPU, pinned memory, and a CUDA graph for each batch size.

    A graph starts all kernels of a batch at once, which else a core starts one by one.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # its graphs never run side by side, so they share their memory
        self._batches: dict[int, _GpuBatch] = {}

    def compute(self, pixels: NDArray[np.uint8], wanted: dict[str, int]) -> Outputs:
        """The outputs at these indices."""
        # A graph is captured from what is stated in the program: fusing it anew for each size, in its first runs, would
        # compile within the capture.
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._stream),
            torch.jit.optimized_execution(should_optimize=False),
        ):
            batch = self._batches.get(len(pixels))
            if batch is None:
                batch = _GpuBatch(self._program, self._stream, self._pool, pixels.shape)
                self._batches[len(pixels)] = batch
            return batch.compute(pixels, wanted)


class _GpuBatch:
    """One batch size of one place. Whoever uses it has its stream set."""

    def __init__(self, program: Program, stream: Any, pool: Any, shape: tuple[int, ...]) -> None:
        self._program, self._stream = program, stream
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        for _ in range(_BEFORE_CAPTURE):
            self._found = program(self._pixels)
        stream.synchronize()
        self._graph = self._captured(pool)
        self._answers: dict[int, torch.Tensor] = {}  # in pinned memory, by index, of the outputs that were asked for

    def compute(self, pixels: NDArray[np.uint8], wanted: dict[str, int]) -> Outputs:
        np.copyto(self._pinned.numpy(), pixels)
        self._pixels.copy_(self._pinned, non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._found = self._program(self._pixels)
        for index in wanted.values():
            found = self._found[index]
            if index not in self._answers:
                self._answers[index] = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            self._answers[index].copy_(found, non_blocking=True)
        self._stream.synchronize()
        # Copies, for the next batch is answered in the same place.
        return {name: self._answers[index].numpy().copy() for name, index in wanted.items()}

    def _captured(self, pool: Any) -> Any:
        """The CUDA graph of this size; None where something in the network cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread may compute on its own stream meanwhile: only this one's calls are looked at.
            with (
                _capturing,
                torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._found = self._program(self._pixels)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _log.warning(
                "batch without a CUDA graph",
                size=len(self._pixels),
                detail=f"Its kernels are started one by one, which is slower for small batches. {error}",
            )
            self._found = self._program(self._pixels)
            return None
        return graph
