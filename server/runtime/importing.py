"""Import: from a bundle, in whatever format its weights are, to the one thing that a runtime is built from.

What a weights file may do to whoever reads it ends here: parsers of foreign formats run in processes of their own
(`models.weights.isolated`, `server.runtime.conversion_worker`), and nothing that comes after reads the file again.
Only a whole Keras model is read in the server, in safe mode, where the runtime is one that reads Keras models.

What is imported is kept between starts where that saves time. A conversion takes seconds, so its result is kept
(`server.runtime.converted_cache`). A Keras model is built from any weights file as fast as from safetensors with our
own names, so no second copy of the weights is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse.models.bundle import Bundle
from glimpse.models.spec import NetworkSummary
from glimpse.server import cleanup
from glimpse.server.runtime import UnsupportedNetworkError, conversion
from glimpse.server.runtime.simulated import SimulatedDevice
from glimpse.server.runtimes import RuntimeRow

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model that the runtime of its row can be built from, any number of times, until it is closed."""

    bundle: Bundle  # whose weights were seen to have their digest
    summary: NetworkSummary
    row: RuntimeRow  # of the runtime that it was imported for
    # What that runtime reads: the file of a converted graph; or a Keras model, uint8 ``[N, H, W, C]`` -> its named
    # outputs, float32, which is made anew each time but shares its layers with the others; or what is to be simulated.
    form: Callable[[], Path | keras.Model | SimulatedDevice]
    temporary: Path | None = None  # a folder that nobody needs once it is closed

    def close(self) -> None:
        """Remove what could not be kept; a runtime that was built from it goes on."""
        if self.temporary is not None:
            cleanup.current().remove(self.temporary)


def import_model(
    bundle: Bundle,
    row: RuntimeRow,
    *,
    seconds: float = conversion.SECONDS,
    simulated_seconds: Mapping[int, float] | None = None,
) -> ImportedModel:
    """Import the model of a bundle for a runtime.

    Args:
        bundle: the model, as `models.sources` finds it.
        row: of the runtime. One that reads converted networks loads no framework here.
        seconds: that a conversion may take.
        simulated_seconds: that a simulated device takes for a batch, by its size; None: those of an H100.

    Raises:
        UnsupportedNetworkError: it cannot be had in the form that the runtime reads; another runtime may read another.
        MemoryError: there was not enough.
        ValueError, OSError: the bundle or its weights cannot be used; the message says why.
        StoppedError: expected; the start was told to end.
    """
    bundle = bundle.verified()
    if row.simulated:
        device = SimulatedDevice.of(len(bundle.labels), simulated_seconds)
        summary = NetworkSummary(paper="", stages=(), parameters=0, trainable_parameters=0)
        return ImportedModel(bundle, summary, row, lambda: device)
    if bundle.graph and not row.reads_converted:
        raise UnsupportedNetworkError(f"{row.name} cannot compute a graph of another framework; openvino can")
    if row.reads_converted:
        network = conversion.get_or_convert(bundle, seconds=seconds)
        temporary = None if network.cached else network.folder
        return ImportedModel(bundle, network.summary, row, lambda: network.graph, temporary)
    # Imported here, so that a runtime that needs no Keras does not wait for it.
    from glimpse.models.serving import load_bundle, serving_outputs

    assembly = load_bundle(bundle)
    form = partial(
        serving_outputs,
        assembly,
        bundle.recipe,
        bundle.temperature,
        bundle.head,
        statistics=bundle.statistics_layer,
    )
    return ImportedModel(bundle, assembly.summary, row, form)
