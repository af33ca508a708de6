"""The PyTorch runtime: Keras on PyTorch, traced once, so that no Python runs within a batch."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from glimpse.models.outputs import LOGITS, PROBABILITIES, Outputs
from glimpse.models.serving import by_name
from glimpse.server import cores
from glimpse.server.runtime import OneStream, stated, torch_layers
from glimpse.server.runtime.precision import compute_in
from glimpse.server.runtimes import PRECISIONS, Precision
from glimpse.server.settings.kinds import PrecisionChoice

# uint8 [N, H, W, C] -> the outputs, float32 [N, ...] each
Program = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

_TRACED, _TRIED = 2, (1, 3)  # images: in the batch that is traced, and in those that the program is then tried on
_ROWS = 0  # torch.contiguous_format, as TorchScript writes it
_BEFORE_CAPTURE = 2  # runs: libraries choose their algorithms and take their workspace in the first ones
_log = structlog.get_logger(__name__)
_capturing = threading.Lock()  # CUDA captures one graph at a time in a process


class TorchRuntime(OneStream):
    """Runs a serving model on the first GPU, or on the CPU.

    Keras keeps images as ``[N, H, W, C]`` and hands PyTorch a view of them as ``[N, C, H, W]``: what PyTorch calls
    channels_last, which is the layout that tensor cores and oneDNN want.
    """

    name = "torch"

    def __init__(self, model: keras.Model, precision: PrecisionChoice = "auto") -> None:
        """Trace `model`, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Args:
            model: as `models.serving` makes it; bfloat16 is set in its layers.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it, and float32 elsewhere.
        """
        torch.set_num_threads(cores.available())
        gpu = torch.cuda.is_available()
        self.device = "gpu:0" if gpu else "cpu"
        # On a GPU one batch is copied while another computes; a CPU has no engine for copies beside its cores.
        self.streams = 2 if gpu else 1
        self.precision = self.resolve(precision)
        compute_in(model, self.precision)
        # Else a GPU rounds the factors of every float32 product to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        self.outputs = self._named(model)
        self._index = {name: index for index, name in enumerate(model.output_names)}
        self._program = traced(model, torch.device("cuda" if gpu else "cpu"), PRECISIONS[self.precision].tolerance)
        self._places: queue.SimpleQueue[_GpuPlace] = queue.SimpleQueue()
        for _ in range(self.streams if gpu else 0):
            self._places.put(_GpuPlace(self._program))

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


def traced(model: keras.Model, device: torch.device, tolerance: float) -> Program:
    """The model as a program without Python: uint8 ``[N, H, W, C]`` -> its outputs, in the order of their names.

    TorchScript's tracer records what Keras' layers call, and freezing puts the values of the variables in their place.
    It computes any batch size; where its answers to batches of other sizes than the traced one are not those of the
    layers, the layers themselves are returned, and a warning says so.

    Args:
        model: as `models.serving` makes it.
        device: on which its variables are.
        tolerance: by which a probability may differ, and logits as a share of the largest.
    """
    begun = time.monotonic()
    layers = _Layers(model).eval()
    reason = ""
    with torch.no_grad(), warnings.catch_warnings():
        # That Keras decides by shapes in Python, which is what is to be recorded; and that TorchScript is not to grow
        # any more. torch.export, which is to take its place, runs each operation from Python again.
        warnings.simplefilter("ignore")
        try:
            with torch_layers.for_inference(model):
                recorded = torch.jit.trace(layers, _noise(model, _TRACED, device), check_trace=False)
            program: Any = _without_copies(torch.jit.freeze(recorded.eval()))
            for size in _TRIED:
                pixels = _noise(model, size, device)
                expected, found = (by_name(model, computed(pixels)) for computed in (layers, program))
                for name, values in expected.items():
                    # Probabilities follow from the logits, and of random weights' large ones a rounding changes them.
                    if name == PROBABILITIES and LOGITS in expected:
                        continue
                    allowed = tolerance * max(1.0, float(values.abs().max()))
                    if found[name].shape != values.shape or float((found[name] - values).abs().max()) > allowed:
                        reason = f"Its {name} for {size} images are not those of the layers."
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    if reason:
        _log.warning(
            "network is not traced",
            detail=f"Python computes it layer by layer, which is slow on a GPU. {reason}",
        )
        return layers
    _log.info("network traced", seconds=round(time.monotonic() - begun, 2), device=device.type)
    return program


def _without_copies(program: Any) -> Any:
    """Without the copies that put activations into the layout ``[N, C, H, W]``, which convolutions would then undo.

    Keras makes one in front of each convolution and each pooling (`_transpose_spatial_inputs` of its PyTorch backend).
    Values and shapes are the same without it.
    """
    for node in program.graph.findAllNodes("aten::contiguous"):
        before, layout = node.inputs()
        if before.node().kind() == "aten::permute" and layout.toIValue() == _ROWS:
            node.output().replaceAllUsesWith(before)
            node.destroy()
    return program


class _Layers(torch.nn.Module):
    """The layers of a model, as PyTorch's tracer wants them."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(by_name(self.model, self.model(pixels, training=False)).values())


def _noise(model: keras.Model, size: int, device: torch.device) -> torch.Tensor:
    """Pixels to trace and to try with: the same at each start."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (size, *model.input_shape[1:]), dtype=torch.uint8, generator=generator).to(device)
