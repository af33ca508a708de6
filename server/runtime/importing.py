"""Import: from a bundle, in whatever format its weights are, to the one thing that a runtime is built from.

What a weights file may do to whoever reads it ends here: parsers of foreign formats run in processes of their own
(`models.weights.isolated`, `server.runtime.conversion_worker`), and nothing that comes after reads the file again.
Only a whole Keras model is read in the server, in safe mode, where the runtime is one that reads Keras models.

What is imported is kept between starts where that saves time. A conversion takes seconds, so its result is kept
(`server.runtime.converted_cache`). A Keras model is built from any weights file as fast as from safetensors with our
own names, so it is built anew; but to import Keras and to build the network takes seconds, too, so what a runtime has
made of it is kept (`server.runtime.kept_network`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from glimpse.models.bundle import Bundle
from glimpse.models.spec import NetworkSummary
from glimpse.server.processes import cleanup
from glimpse.server.runtime import (
    Runtime,
    RuntimeType,
    UnsupportedNetworkError,
    conversion,
    kept_measurements,
    kept_network,
)
from glimpse.server.runtime.converted_key import identity
from glimpse.server.runtime.kept_network import Keepable, KeptNetwork
from glimpse.server.runtime.simulated import SimulatedDevice
from glimpse.server.runtimes import PRECISIONS, Precision, RuntimeRow

if TYPE_CHECKING:
    import keras

    from glimpse.models.builder import Assembly


def implementation(row: RuntimeRow) -> RuntimeType:
    """The class of a runtime; its module alone loads its framework."""
    found: RuntimeType = resolve_name(row.implementation)
    return found


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
    # What an earlier start has kept of the network in a precision, in the place of its form; its files may be broken.
    kept: Callable[[Precision], KeptNetwork | None] = lambda _: None

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
    built = _Built(bundle)
    if not row.keeps:
        return ImportedModel(bundle, built.summary, row, built.model)
    kept = cache(partial(_kept, bundle, row))
    found = next(filter(None, map(kept, PRECISIONS)), None)
    return ImportedModel(bundle, built.summary if found is None else found.summary, row, built.model, kept=kept)


class _Built:
    """The network of a bundle as Keras builds it, which is imported and done once it is needed."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @cached_property
    def _assembly(self) -> Assembly:
        # Imported here, so that a runtime that needs no Keras does not wait for it.
        from glimpse.models.serving import load_bundle

        return load_bundle(self._bundle)

    @property
    def summary(self) -> NetworkSummary:
        return self._assembly.summary

    def model(self) -> keras.Model:
        from glimpse.models.serving import serving_outputs

        bundle = self._bundle
        return serving_outputs(
            self._assembly, bundle.recipe, bundle.temperature, bundle.head, statistics=bundle.statistics_layer
        )


def keep(imported: ImportedModel, runtime: Runtime) -> None:
    """Keep what a runtime has made of a network for later starts, if it can be kept and is not.

    Args:
        imported: what the runtime was built from.
        runtime: that has given the recorded answers.

    Raises:
        StoppedError: expected; the start was told to end.
    """
    precision = cast("Precision", runtime.precision)
    if not imported.row.keeps or not isinstance(runtime, Keepable):
        return
    key = _key(imported.bundle, imported.row, precision)
    # Looked for again where it was there: what could not be used has been discarded since.
    if imported.kept(precision) is None or kept_network.find(key) is None:
        kept_network.keep(key, runtime, imported.bundle, imported.summary)


def _kept(bundle: Bundle, row: RuntimeRow, precision: Precision) -> KeptNetwork | None:
    return kept_network.find(_key(bundle, row, precision))


def _key(bundle: Bundle, row: RuntimeRow, precision: Precision) -> str:
    return kept_network.key(follows_from(bundle, row, precision))


def follows_from(bundle: Bundle, row: RuntimeRow, precision: str) -> dict[str, Any]:
    """All that a runtime's network, and what is measured of it, follows from, see `kept_measurements.facts`."""
    processor = implementation(row).processor()
    return kept_measurements.facts(network=identity(bundle), runtime=row.name, processor=processor, precision=precision)
