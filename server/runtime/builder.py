"""Builds a runtime in the precision that is asked for, or in a reduced one that gives the answers of float32."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models import calibration_pictures, golden, variations
from glimpse.models.bundle import BundleError
from glimpse.models.outputs import PROBABILITIES
from glimpse.server.nouns import noun
from glimpse.server.runtime import (
    Runtime,
    RuntimeType,
    UnsupportedNetworkError,
    agreement,
    errors_as_unsupported,
    memory_budget,
    quantisation,
    speeds,
)
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.converted_key import identity
from glimpse.server.runtime.importing import ImportedModel, implementation
from glimpse.server.runtime.int8_trial import Given, Trial
from glimpse.server.runtimes import QUANTISED, REFERENCE, Precision
from glimpse.server.settings.kinds import PrecisionChoice

_BATCH = 32  # images at a time in a comparison, at the most
_log = structlog.get_logger(__name__)


class BuiltRuntime(NamedTuple):
    """A runtime, and how its precision came about."""

    runtime: Runtime
    agreement: Agreement | None  # of the reduced precision with float32; None: none was considered


def build(
    imported: ImportedModel, *, precision: PrecisionChoice, largest: int = 0, given: Given | None = None
) -> BuiltRuntime:
    """The runtime that a model was imported for, in the precision that is asked for.

    A reduced precision is compared with float32 first, see `server.runtime.agreement`: ``auto`` takes it only where it
    gives the same answers, and one that is stated is taken with a warning. int8 has to be clearly faster, too, see
    `server.runtime.int8_trial`: ``auto`` considers it for a model that brings pictures of its own, and where it is
    stated and does not earn its place, the model is refused.

    Args:
        imported: what is to be computed.
        precision: the one that is stated; ``auto``: the fastest that gives the answers of float32.
        largest: images in the largest batch; 0: what suits the runtime and the network.
        given: what quantising depends on.

    Raises:
        UnsupportedNetworkError: the runtime cannot compute the network; another one may.
        MemoryError: there was not enough.
        ValueError: the precision is not to be had on this device, or int8 is stated and does not earn its place.
    """
    return _Builder(imported, largest, given or Given()).build(precision)


def may_quantise(imported: ImportedModel, wanted: PrecisionChoice) -> bool:
    """Whether int8 is considered: by ``auto`` only with pictures like those that will be sent, which judge it."""
    if wanted != "auto":
        return wanted == QUANTISED
    return imported.row.quantises and calibration_pictures.there(imported.bundle) and quantisation.installed()


class _Builder:
    """Builds one runtime for one model, in one precision at a time, for two of them take twice the memory."""

    def __init__(self, imported: ImportedModel, largest: int, given: Given) -> None:
        self._imported, self._row, self._largest, self._given = imported, imported.row, largest, given
        self._built: Runtime | None = None
        self._quantised: Path | None = None  # graph to be computed in int8

    def build(self, wanted: PrecisionChoice) -> BuiltRuntime:
        precision = self._type.resolve(wanted)
        if may_quantise(self._imported, wanted):
            return self._best(wanted)
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

    def _best(self, wanted: PrecisionChoice) -> BuiltRuntime:
        """In int8 if that earns its place, else what ``auto`` takes without it.

        Raises:
            ValueError: int8 is stated and does not earn its place.
        """
        fastest, compared = self._type.resolve("auto"), None
        if fastest != REFERENCE and self._given.judged is None:
            compared = self._compared(fastest)
        against = fastest if compared is None or compared.sufficient else REFERENCE
        trial = Trial(
            self._imported,
            self,
            self._given,
            against=against,
            processor=self._type.processor(),
            largest=self._largest,
        )
        with contextlib.closing(trial):
            try:
                found = trial.run()
            except (UnsupportedNetworkError, MemoryError, ValueError, OSError) as error:
                if wanted == QUANTISED:
                    raise ValueError(f"GLIMPSE_PRECISION is {QUANTISED}, but {error}") from error
                _log.warning("precision not tried", precision=QUANTISED, instead=against, detail=str(error))
                return BuiltRuntime(self._runtime(against), compared)
            if found.sufficient:
                _log.info(
                    "precision chosen",
                    precision=QUANTISED,
                    instead_of=against,
                    agreement=round(found.share, 4),
                    speed=round(found.speed, 2),
                    detail=str(found),
                )
                return BuiltRuntime(self._runtime(QUANTISED), found)
        if wanted == QUANTISED:
            raise ValueError(
                f"GLIMPSE_PRECISION is {QUANTISED}, and it does not earn its place here. {found} Set GLIMPSE_PRECISION "
                f"to auto, which takes {against}, or GLIMPSE_CALIBRATION to a folder of images like those that will be "
                "sent."
            )
        _log.info(
            "precision falls back",
            precision=against,
            instead_of=QUANTISED,
            agreement=round(found.share, 4),
            speed=round(found.speed, 2),
            detail=str(found),
        )
        return BuiltRuntime(self._runtime(against), compared or found)

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
        found = agreement.measure(self.answer, series, precision=precision, number=number, thresholds=thresholds)
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

    def answer(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
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
                    raise MemoryError(f"A batch of {batch} {noun(batch, 'image')} did not fit.") from error
                raise

    def faster(self, precision: Precision, other: Precision) -> float:
        """How many times as fast the network is computed in `precision`.

        Raises:
            MemoryError: there is not enough for both networks, which compute in turns.
        """
        one = self._runtime(precision)
        self._check_room_for_another()
        another = self._made(other)
        sizes = one.batch_sizes(self._largest, self._imported.summary.multiply_adds)
        random = np.random.default_rng(0)

        @cache
        def batch(size: int) -> NDArray[np.uint8]:
            return random.integers(0, 256, (size, *self._imported.bundle.recipe.pixels_shape), np.uint8)

        def computing(runtime: Runtime) -> Callable[[int], object]:
            return lambda size: runtime(batch(size))

        with errors_as_unsupported(f"{self._row.name} cannot compute this network"):
            return speeds.ratio(computing(one), computing(another), sorted({sizes[0], sizes[-1]}))

    def _check_room_for_another(self) -> None:
        """Refuse a second network for which there is no memory: a load is let in with what one network takes.

        Raises:
            MemoryError: there is not enough.
        """
        if lack := memory_budget.lack_for_another(self._imported.bundle, self._row):
            raise MemoryError(f"comparing its speed takes a second network, {lack}.")

    def take(self, quantised: Path) -> None:
        """From now on compute this graph in int8."""
        self._quantised = quantised
        if self._built is not None and self._built.precision == QUANTISED:
            self._built = None

    def _runtime(self, precision: Precision) -> Runtime:
        """In that precision; what there was in another goes first."""
        if self._built is None or self._built.precision != precision:
            self._built = None
            self._built = self._made(precision)
        return self._built

    def _made(self, precision: Precision) -> Runtime:
        make = self._type
        what = f"{self._row.name} cannot compute this network"
        if (kept := self._imported.kept(precision)) is not None:
            with errors_as_unsupported(what):
                try:
                    kept.check()
                    return make(kept, precision)
                except (OSError, ValueError) as error:
                    _log.warning("kept network cannot be used", folder=str(kept.folder), detail=str(error))
                    kept.discard()
        form = self._quantised if precision == QUANTISED else self._imported.form()
        with errors_as_unsupported(what):
            return make(form, precision)
