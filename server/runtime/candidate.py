"""A runtime on its way to serving: in the precision that it has been told, or that has earned its place."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models import golden, variations
from glimpse.models.bundle import BundleError
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.runtime import Runtime, agreement, converted_cache, told
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.network import Network
from glimpse.server.settings.kinds import Precision, RuntimeName

_BATCH = 32  # images at a time in a comparison, at the most
_log = structlog.get_logger(__name__)


class Built(NamedTuple):
    """A runtime, and how its precision came about."""

    runtime: Runtime
    agreement: Agreement | None  # of the reduced precision with float32; None: none was considered


class Candidate:
    """A network with the runtime of a name, in one precision at a time, for two of them take twice the memory."""

    def __init__(self, name: RuntimeName, network: Network, largest: int) -> None:
        """Nothing is built yet. `largest`: images in the largest batch; 0: what suits the runtime and the network."""
        self._name, self._network, self._largest = name, network, largest
        self._built: Runtime | None = None

    def in_precision(self, wanted: Precision) -> Built:
        """The runtime, ready to compute, in the precision that it has been told or that has earned it."""
        # In the form that the runtime takes: whatever keeps it from being had comes first.
        _ = self._network.converted if self._name == "openvino" else self._network.assembly
        precision = _class(self._name).resolve(wanted)
        if precision == "float32":
            return Built(self._runtime("float32"), None)
        found = self._compared(precision)
        if not found.earned:
            if wanted == "auto":
                _log.warning(
                    "precision falls back",
                    precision="float32",
                    instead_of=precision,
                    agreement=round(found.share, 4),
                    detail=f"{found} Set GLIMPSE_PRECISION={precision} to use it all the same.",
                )
                return Built(self._runtime("float32"), found)
            _log.warning(
                "precision changes answers",
                precision=precision,
                agreement=round(found.share, 4),
                detail=f"{found} It is used because GLIMPSE_PRECISION is set; auto would use float32.",
            )
        return Built(self._runtime(precision), found)

    def _compared(self, precision: Precision) -> Agreement:
        """How that precision compares with float32: by an earlier start, or else now."""
        own, network = self._pictures(), self._network
        number = agreement.size(network.summary.multiply_adds)
        follows_from = agreement.facts(
            network=converted_cache.identity(network.bundle),
            runtime=self._name,
            processor=_class(self._name).processor(),
            precision=precision,
            pictures=variations.digest(own),
            number=number,
        )
        if (found := agreement.known(follows_from)) is not None:
            return found
        _log.info("comparing precisions", model=network.bundle.name, precision=precision, pictures=number)
        begun = time.monotonic()
        series = variations.series(own, network.bundle.recipe)
        found = agreement.measure(self._answer, series, precision=precision, number=number)
        agreement.keep(follows_from, found)
        _log.info(
            "precisions compared",
            model=network.bundle.name,
            precision=precision,
            agreement=round(found.share, 4),
            pictures=found.pictures,
            unclear=found.unclear,
            seconds=round(time.monotonic() - begun, 2),
        )
        return found

    def _pictures(self) -> tuple[golden.Picture, ...]:
        """The bundle's own; none where they cannot be read, which the gate has told."""
        try:
            return tuple(each.picture for each in golden.read(self._network.bundle))
        except BundleError:
            return ()

    def _answer(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of any number of pictures, in batches, on all streams."""
        runtime = self._runtime(cast("Precision", precision))
        sizes = runtime.batch_sizes(self._largest, self._network.summary.multiply_adds)
        # One that serving warms anyway, for some runtimes compile each of them anew.
        batch = max(size for size in sizes if size <= max(_BATCH, sizes[0]))

        def piece(begin: int) -> NDArray[np.float32]:
            rows = np.take(pixels, range(begin, begin + batch), axis=0, mode="wrap")
            return runtime(rows)[PROBABILITIES][: len(pixels) - begin]

        with told(f"{self._name} cannot compute this network"):
            try:
                with ThreadPoolExecutor(runtime.streams) as streams:
                    return np.concatenate([*streams.map(piece, range(0, len(pixels), batch))])
            except Exception as error:
                if runtime.out_of_memory(error):
                    raise MemoryError(f"A batch of {batch} images did not fit.") from error
                raise

    def _runtime(self, precision: Precision) -> Runtime:
        """In that precision; what there was in another goes first."""
        if self._built is None or self._built.precision != precision:
            self._built = None
            make = _class(self._name)
            form = self._network.converted.graph if self._name == "openvino" else self._network.serving_model()
            with told(f"{self._name} cannot compute this network"):
                self._built = make(form, precision)
        return self._built


def _class(name: RuntimeName) -> Any:
    """The class of that name; its file alone loads its framework."""
    if name == "openvino":
        from glimpse.server.runtime.openvino import OpenVINORuntime

        return OpenVINORuntime
    if name == "jax":
        from glimpse.server.runtime.jax import JaxRuntime

        return JaxRuntime
    if name == "torch":
        from glimpse.server.runtime.torch import TorchRuntime

        return TorchRuntime
    from glimpse.server.runtime.tensorflow import TensorFlowRuntime

    return TensorFlowRuntime
