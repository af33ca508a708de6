"""Builds a runtime in the precision that is asked for, or in a reduced one that gives the answers of float32."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pkgutil import resolve_name
from typing import NamedTuple, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models import golden, variations
from glimpse.models.bundle import BundleError
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.runtime import Runtime, RuntimeType, agreement, errors_as_unsupported
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.converted_key import identity
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtimes import REFERENCE, Precision, RuntimeRow
from glimpse.server.settings.kinds import PrecisionChoice

_BATCH = 32  # images at a time in a comparison, at the most
_log = structlog.get_logger(__name__)


class BuiltRuntime(NamedTuple):
    """A runtime, and how its precision came about."""

    runtime: Runtime
    agreement: Agreement | None  # of the reduced precision with float32; None: none was considered


def build(imported: ImportedModel, *, precision: PrecisionChoice, largest: int = 0) -> BuiltRuntime:
    """The runtime that a model was imported for, in the precision that is asked for.

    A reduced precision is compared with float32 first, see `server.runtime.agreement`: ``auto`` takes it only where it
    gives the same answers, and one that is stated is taken with a warning.

    Args:
        imported: what is to be computed.
        precision: the one that is stated; ``auto``: the fastest that gives the answers of float32.
        largest: images in the largest batch; 0: what suits the runtime and the network.

    Raises:
        UnsupportedNetworkError: the runtime cannot compute the network; another one may.
        MemoryError: there was not enough.
        ValueError: the precision is not to be had on this device.
    """
    return _Builder(imported, largest).build(precision)


def implementation(row: RuntimeRow) -> RuntimeType:
    """The class of a runtime; its module alone loads its framework."""
    found: RuntimeType = resolve_name(row.implementation)
    return found


class _Builder:
    """Builds one runtime for one model, in one precision at a time, for two of them take twice the memory."""

    def __init__(self, imported: ImportedModel, largest: int) -> None:
        self._imported, self._row, self._largest = imported, imported.row, largest
        self._built: Runtime | None = None

    def build(self, wanted: PrecisionChoice) -> BuiltRuntime:
        precision = self._type.resolve(wanted)
        if precision == REFERENCE:
            return BuiltRuntime(self._runtime(REFERENCE), None)
        found = self._compared(precision)
        if not found.sufficient:
            if wanted == "auto":
                _log.warning(
                    "precision falls back",
                    precision=REFERENCE,
                    instead_of=precision,
                    agreement=round(found.share, 4),
                    detail=f"{found} Set GLIMPSE_PRECISION={precision} to use it all the same.",
                )
                return BuiltRuntime(self._runtime(REFERENCE), found)
            _log.warning(
                "precision changes answers",
                precision=precision,
                agreement=round(found.share, 4),
                detail=f"{found} It is used because GLIMPSE_PRECISION is set; auto would use float32.",
            )
        return BuiltRuntime(self._runtime(precision), found)

    @property
    def _type(self) -> RuntimeType:
        return implementation(self._row)

    def _compared(self, precision: Precision) -> Agreement:
        """How that precision compares with float32: by an earlier start, or else now."""
        own, bundle = self._pictures(), self._imported.bundle
        number = agreement.size(self._imported.summary.multiply_adds)
        follows_from = agreement.facts(
            network=identity(bundle),
            runtime=self._row.name,
            processor=self._type.processor(),
            precision=precision,
            pictures=variations.digest(own),
            number=number,
        )
        if (found := agreement.cached(follows_from)) is not None:
            return found
        _log.info(
            "comparing precisions",
            model=bundle.name,
            precision=precision,
            pictures=number,
            detail="This takes up to half a minute, or minutes with a large network or where cores are busy.",
        )
        begun = time.monotonic()
        series = variations.series(own, bundle.recipe)
        thresholds = None if bundle.head.exclusive else bundle.head.limits
        found = agreement.measure(self._answer, series, precision=precision, number=number, thresholds=thresholds)
        agreement.store(follows_from, found)
        _log.info(
            "precisions compared",
            model=bundle.name,
            precision=precision,
            agreement=round(found.share, 4),
            pictures=found.pictures,
            undecided=found.unclear,
            seconds=round(time.monotonic() - begun, 2),
        )
        return found

    def _pictures(self) -> tuple[golden.SampleImage, ...]:
        """The bundle's own; none where they cannot be read, which the gate has told."""
        try:
            return tuple(each.picture for each in golden.read(self._imported.bundle))
        except BundleError:
            return ()

    def _answer(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of any number of pictures, in batches, on all streams."""
        runtime = self._runtime(cast("Precision", precision))
        sizes = runtime.batch_sizes(self._largest, self._imported.summary.multiply_adds)
        # One that serving warms anyway, for some runtimes compile each of them anew.
        batch = max(size for size in sizes if size <= max(_BATCH, sizes[0]))

        def piece(begin: int) -> NDArray[np.float32]:
            rows = np.take(pixels, range(begin, begin + batch), axis=0, mode="wrap")
            return runtime(rows)[PROBABILITIES][: len(pixels) - begin]

        with errors_as_unsupported(f"{self._row.name} cannot compute this network"):
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
            make = self._type
            form = self._imported.form()
            with errors_as_unsupported(f"{self._row.name} cannot compute this network"):
                self._built = make(form, precision)
        return self._built
