"""Whether an int8 network of a model may serve: as accurate as float32 and clearly faster than what would serve else.

What is found is kept for the starts after it (`server.runtime.kept_measurements`), as the networks are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models.bundle import Bundle
from glimpse.models.calibration_pictures import UNKNOWN
from glimpse.server.processes import cleanup
from glimpse.server.runtime import agreement, conversion, quantisation
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.converted_cache import Converted
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtime.quantisation import Orders, Pictures
from glimpse.server.runtimes import QUANTISED, REFERENCE, Precision

_log = structlog.get_logger(__name__)


class Computes(Protocol):
    """What computes a network in one precision after the other."""

    def answer(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities ``[N, classes]`` of any number of pictures."""

    def faster(self, precision: Precision, other: Precision) -> float:
        """How many times as fast it computes in `precision`, at the batch sizes in use."""

    def take(self, quantised: Path) -> None:
        """From now on compute this graph in int8."""


@dataclass(frozen=True, slots=True)
class Given:
    """What quantising depends on, beside the model."""

    calibration: Path | None = None  # folder of images, for models that bring none
    seconds: float = conversion.SECONDS  # that it may take
    # What was found when it earned its place, which it need not do again as long as its network is kept, or can be made
    # again of the same pictures.
    judged: Agreement | None = None


class Trial:
    """Tries an int8 network, and a more careful one if the first changes too many answers."""

    def __init__(
        self,
        imported: ImportedModel,
        computes: Computes,
        given: Given,
        *,
        against: Precision,
        processor: str,
        largest: int,
    ) -> None:
        """Nothing is done yet.

        Args:
            imported: the model, whose graph is converted.
            computes: what computes it.
            given: what quantising depends on.
            against: the precision that the model would be computed in else.
            processor: what computes.
            largest: images in the largest batch; 0: what suits the runtime.
        """
        self._imported, self._computes, self._given = imported, computes, given
        self._against, self._processor, self._largest = against, processor, largest
        self._temporary: list[Path] = []

    @property
    def _bundle(self) -> Bundle:
        return self._imported.bundle

    def run(self) -> Agreement:
        """How int8 compares, by an earlier start or found now; where it may serve, `computes` has the network.

        Raises:
            UnsupportedNetworkError: the network cannot be quantised.
            MemoryError: there was not enough.
            ValueError, OSError: the pictures cannot be used, or NNCF is not installed; the message says what to do.
            StoppedError: expected; the start was told to end.
        """
        judged = self._given.judged
        if judged is not None and (network := conversion.kept(judged.network)) is not None:
            # Whatever has become of the pictures since, this is the network that has earned its place.
            self._computes.take(network.graph)
            return judged
        quantisation.check_installed()
        pictures = quantisation.pictures(self._bundle, self._given.calibration)
        if judged is not None and judged.network == quantisation.key(self._bundle, pictures, careful=judged.careful):
            self._take(pictures, careful=judged.careful)
            return judged
        found = self._tried(pictures, careful=False)
        if found.fast and not found.accurate:  # layers in float32 make it more accurate, and never faster
            found = self._tried(pictures, careful=True)
        return found

    def close(self) -> None:
        """Remove what could not be kept; a runtime that was built from it goes on."""
        for folder in self._temporary:
            cleanup.current().remove(folder)

    def _take(self, pictures: Pictures, *, careful: bool) -> None:
        key = quantisation.key(self._bundle, pictures, careful=careful)
        self._computes.take(self._quantised(pictures, key, careful=careful).graph)

    def _tried(self, pictures: Pictures, *, careful: bool) -> Agreement:
        key = quantisation.key(self._bundle, pictures, careful=careful)
        number = agreement.size(self._imported.summary.multiply_adds)
        facts = agreement.facts(
            network=key,
            runtime=self._imported.row.name,
            processor=self._processor,
            precision=QUANTISED,
            pictures=pictures.digest,
            number=number,
        )
        facts |= {"faster_than": self._against, "largest": self._largest}
        if (found := agreement.cached(facts)) is not None:
            if found.sufficient:
                self._take(pictures, careful=careful)
            return replace(found, network=key)
        self._take(pictures, careful=careful)
        found = replace(self._measured(pictures, number), careful=careful, network=key)
        agreement.store(facts, found)
        _log.info(
            "precisions compared",
            model=self._bundle.name,
            precision=QUANTISED,
            agreement=round(found.share, 4),
            pictures=found.pictures,
            undecided=found.unclear,
            labelled=found.labelled,
            lost=found.lost,
            speed=round(found.speed, 2),
            faster_than=found.faster_than,
            calibrated_with=pictures.source,
            careful=careful,
        )
        return found

    def _quantised(self, pictures: Pictures, key: str, *, careful: bool) -> Converted:
        graph = self._imported.form()
        assert isinstance(graph, Path)  # noqa: S101 - of a runtime that reads converted networks
        orders = Orders(self._bundle, graph, self._imported.summary, pictures.pixels, careful)
        found = conversion.get_or_quantise(orders, key, seconds=self._given.seconds)
        if not found.cached:
            self._temporary.append(found.folder)
        return found

    def _measured(self, pictures: Pictures, number: int) -> Agreement:
        answer, head = self._computes.answer, self._bundle.head
        thresholds = None if head.exclusive else head.limits
        series = pictures.series(self._bundle.recipe)
        found = agreement.measure(answer, series, precision=QUANTISED, number=number, thresholds=thresholds)
        known = pictures.classes != UNKNOWN
        if known.any() and head.exclusive:  # of several labels, the folder of a picture would name one
            pixels, classes = pictures.held_out[known], pictures.classes[known]
            # In this order: the one was just compared.
            reduced, reference = (
                int((answer(each, pixels).argmax(axis=1) == classes).sum()) for each in (QUANTISED, REFERENCE)
            )
            found = replace(found, labelled=len(classes), lost=reference - reduced)
        return replace(found, speed=float(self._computes.faster(QUANTISED, self._against)), faster_than=self._against)
