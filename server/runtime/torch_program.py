"""A network as a program of PyTorch: traced from Keras' layers once, for all batch sizes, and kept for later starts."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import torch

from glimpse.models.map_rows import Head
from glimpse.models.messages import short
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.runtime import kept_network
from glimpse.server.runtime.kept_network import KeptNetwork
from glimpse.server.runtimes import PrecisionRow

if TYPE_CHECKING:
    import keras

# uint8 [N, H, W, C] -> the outputs, float32 [N, ...] each
Program = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

_PROGRAM = "program.pt"
_TRACED, _TRIED = 2, (1, 3)  # images: in the batch that is traced, and in those that the program is then tried on
_ROWS = 0  # torch.contiguous_format, as TorchScript writes it
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Traced:
    """A network whose layers are not needed any more."""

    names: tuple[str, ...]  # of the outputs, in the order in which the program gives them
    maps_head: Head | None
    program: Program  # the layers themselves, where they cannot be traced


def trace(model: keras.Model, device: torch.device, precision: PrecisionRow) -> Traced:
    """A serving model as a program without Python, which computes in `precision` from then on.

    TorchScript's tracer records what Keras' layers call, and freezing puts the values of the variables in their place.
    It computes any batch size; where its answers to batches of other sizes than the traced one are not those of the
    layers, the layers themselves are returned, and a warning says so.

    Args:
        model: as `models.serving` makes it.
        device: on which its variables are.
        precision: by whose tolerance a probability may differ, and logits as a share of the largest.
    """
    from glimpse.models.serving import by_name
    from glimpse.server.runtime import torch_layers
    from glimpse.server.runtime.precision import compute_in

    compute_in(model, precision.name)
    names, maps_head = tuple(model.output_names), getattr(model, "maps_head", None)
    begun = time.monotonic()
    layers = _Layers(model).eval()
    reason = ""
    with torch.no_grad(), _without_warnings():
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
                    allowed = precision.tolerance * max(1.0, float(values.abs().max()))
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
        return Traced(names, maps_head, layers)
    _log.info("network traced", seconds=round(time.monotonic() - begun, 2), device=device.type)
    return Traced(names, maps_head, program)


def save(traced: Traced, folder: Path) -> dict[str, Any] | None:
    """Write a program into files of `folder`; returns what `read` has to know beside them. None: it is not traced."""
    if not isinstance(traced.program, torch.jit.ScriptModule):
        return None
    try:
        with _without_warnings():
            traced.program.save(str(folder / _PROGRAM))
    except RuntimeError as error:  # PyTorch has no type of its own for a disk that is full
        raise OSError(short(error)) from error
    return kept_network.save_outputs(traced.names, traced.maps_head, folder)


def read(kept: KeptNetwork, device: torch.device) -> Traced:
    """What `save` has written.

    Raises:
        ValueError: it is something else.
        OSError: it cannot be read.
        MemoryError: there was not enough; of PyTorch's own errors, torch.OutOfMemoryError.
    """
    with kept_network.reading(torch.OutOfMemoryError), _without_warnings():
        names, maps_head = kept_network.read_outputs(kept)
        program = torch.jit.load(str(kept.folder / _PROGRAM), map_location=device)
    return Traced(names, maps_head, program)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """PyTorch warns that Keras decides by shapes in Python, which is what is to be recorded.

    And that TorchScript is not to grow any more: torch.export, which is to take its place, runs each operation from
    Python again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
        from glimpse.models.serving import by_name

        return tuple(by_name(self.model, self.model(pixels, training=False)).values())


def _noise(model: keras.Model, size: int, device: torch.device) -> torch.Tensor:
    """Pixels to trace and to try with: the same at each start."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (size, *model.input_shape[1:]), dtype=torch.uint8, generator=generator).to(device)
