"""A reduced precision has to earn its place: before it serves, its first answers are compared with those of float32.

agreement/<key>.json   in GLIMPSE_CACHE: what a comparison found, for the starts after it

A reduced precision computes faster, and most networks name the same first class in it; some do not, and nothing else
tells which. What is compared is the first class of pictures to which float32 itself has a clear answer: where its first
two classes are as good as equally probable, two computations that are both right may name different ones. Pieces of a
few photographs have more such pictures than photographs as people send them, so that counting them would refuse
networks which keep 99.7% of their first answers on real photographs.

Of a multi-label model the labels over their thresholds are compared, without those that float32 itself puts near
theirs.
A precision for which a network of its own is made, int8, must also be faster than the next best one, and may not lose
more than half a point of the pictures whose classes are known.

Nothing here knows of a runtime: it is given as a function of precision and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.server.nouns import noun
from glimpse.server.runtime import kept_measurements

# (precision, uint8 [N, H, W, C]) -> float32 probabilities [N, classes]
Answer = Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]

KIND = "agreement"  # of measurement
MIN_PICTURES = 100  # pictures with a clear answer, or the comparison says too little
REQUIRED_SHARE = 0.99  # share of them that must keep their first class
# By which a label's probability must be away from its threshold to be compared: the tolerance of a reduced precision is
# of that size, so that a label which is nearer may fall on either side of it in two computations that are both right.
CLEAR_DISTANCE = 0.1
REQUIRED_SPEED = 1.15  # times the speed of the next best precision, where it was measured
MOST_LOST = 0.005  # share of pictures of a known class that float32 names right and the reduced precision does not
CLEAR_RATIO = 0.8  # of the first class's probability is the most that the second may have where an answer is clear
_MAX_PICTURES = 200  # pictures that are compared where the network is small
_MAX_MULTIPLY_ADDS = (
    100_000_000_000  # multiply-adds that a comparison may take in each precision before it is content with MIN_PICTURES
)
_MAX_ROUNDS = 4  # times so many pictures are looked at, at the most


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a reduced precision compares with float32."""

    precision: str  # the reduced one
    same: int  # pictures whose first class is that of float32
    pictures: int  # that were compared: float32 has a clear answer to each
    unclear: int  # pictures that were left out, because it has none
    labelled: int = 0  # pictures of known classes that both named; of these
    lost: int = 0  # are named right by so many more in float32; negative: by fewer
    speed: float = 0.0  # times that of `faster_than`, at the batch size at which it gains least; 0: not measured
    faster_than: str = ""  # the next best precision, in which the network would be computed else
    several: bool = False  # of a multi-label model, whose labels over their thresholds were compared
    careful: bool = False  # of an int8 network whose most sensitive layers stay in float32
    network: str = ""  # of an int8 network, under which key it is kept; "": not looked at

    @property
    def accurate(self) -> bool:
        """Whether its answers are those of float32."""
        # One picture more or less is chance, of however few.
        lost = self.lost <= max(1.0, MOST_LOST * self.labelled)
        return self.pictures >= MIN_PICTURES and self.share >= REQUIRED_SHARE and lost

    @property
    def fast(self) -> bool:
        """Whether it is worth it, as far as that was measured."""
        return not self.speed or self.speed >= REQUIRED_SPEED

    @property
    def share(self) -> float:
        """Of the compared pictures, those with the same first class; 0 where there are none."""
        return self.same / self.pictures if self.pictures else 0.0

    @property
    def sufficient(self) -> bool:
        """Whether the reduced precision may be taken for float32."""
        return self.accurate and self.fast

    def __str__(self) -> str:
        if self.pictures < MIN_PICTURES:
            every = self.pictures + self.unclear
            return (
                f"{self.precision} cannot be compared with float32: float32 is decided about {self.pictures} of "
                f"{every} {noun(every, 'picture')}, and {MIN_PICTURES} are needed."
            )
        answers = "tells the same labels as" if self.several else "names the same first class as"
        told = (
            f"{self.precision} {answers} float32 for {self.same} of {self.pictures} pictures, "
            f"{self.share:.1%}; {REQUIRED_SHARE:.0%} are required."
        )
        if self.labelled:
            told += (
                f" Of {self.labelled} {noun(self.labelled, 'picture')} of known classes it names {max(0, self.lost)} "
                f"fewer right; at most {max(1, int(MOST_LOST * self.labelled))} may be lost."
            )
        if self.speed:
            told += f" It is {self.speed:.2f} times as fast as {self.faster_than}; {REQUIRED_SPEED} times are required."
        return told


def size(multiply_adds: int) -> int:
    """How many pictures are compared: more where the network is small, and chance should decide less."""
    return max(MIN_PICTURES, min(_MAX_PICTURES, _MAX_MULTIPLY_ADDS // max(1, multiply_adds)))


def measure(
    answer: Answer,
    pictures: Iterator[NDArray[np.uint8]],
    *,
    precision: str,
    number: int,
    thresholds: NDArray[np.float32] | None = None,
) -> Agreement:
    """Compare a reduced precision with float32.

    Args:
        answer: what computes. It is asked in float32 until that has given enough clear answers, then once in
            `precision`; so it need not hold both at a time.
        pictures: uint8 ``[H, W, C]`` each, as many as are asked for.
        precision: the reduced one.
        number: pictures with a clear answer that are compared, if there are so many.
        thresholds: of a multi-label model, ``[labels]``: an answer is clear if any label is clear of its own, and the
            same if all that are clear stay on their side.
    """
    kept: list[NDArray[np.uint8]] = []
    expected: list[NDArray[np.float32]] = []
    unclear = 0
    for _ in range(_MAX_ROUNDS):
        batch = np.stack([*islice(pictures, number)])
        found = answer("float32", batch)
        clear = _clear(found) if thresholds is None else _clear_labels(found, thresholds).any(axis=1)
        unclear += int((~clear).sum())
        kept += [batch[row] for row in np.flatnonzero(clear)]
        expected += [*found[clear]]
        if len(kept) >= number:
            break
    several = thresholds is not None
    if not kept:
        return Agreement(precision, 0, 0, unclear, several=several)
    del kept[number:], expected[number:]
    found, reference = answer(precision, np.stack(kept)), np.stack(expected)
    if thresholds is None:
        same = found.argmax(axis=1) == reference.argmax(axis=1)
    else:
        sides = (found >= thresholds) == (reference >= thresholds)
        same = (sides | ~_clear_labels(reference, thresholds)).all(axis=1)
    same &= np.isfinite(found).all(axis=1)
    return Agreement(precision, int(same.sum()), len(kept), unclear, several=several)


def _clear_labels(found: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which labels of which answers, ``[N, labels]``, are away from their thresholds."""
    return np.asarray(np.isfinite(found) & (np.abs(found - thresholds) >= CLEAR_DISTANCE))


def _clear(found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of which answers, probabilities ``[N, classes]``, the first class is clearly ahead: ``[N]``."""
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(found), axis=1)
    if found.shape[1] < 2:
        return finite
    ranked = np.partition(np.where(finite[:, np.newaxis], found, 0), -2, axis=1)
    second, best = ranked[:, -2], ranked[:, -1]
    return finite & (best > 0) & (second <= CLEAR_RATIO * best)


def cached(follows_from: Mapping[str, Any]) -> Agreement | None:
    """What an earlier comparison found; None where there was none, or what is kept of it cannot be used.

    Args:
        follows_from: all that the comparison depends on, JSON-ready; see `facts`.
    """

    def parsed(values: Any) -> Agreement:
        found = Agreement(**values)
        counted = (found.same, found.pictures, found.unclear)
        if not all(type(each) is int for each in counted) or not 0 <= found.same <= found.pictures or found.unclear < 0:
            raise ValueError(f"{counted} cannot be")
        if not all(type(each) is int for each in (found.labelled, found.lost)) or type(found.speed) is not float:
            raise ValueError("a count or a speed is no number")
        if not all(type(each) is bool for each in (found.several, found.careful)):
            raise ValueError("several or careful is neither true nor false")
        if type(found.network) is not str:
            raise ValueError("the key of a network is no text")
        if found.precision != follows_from["precision"]:
            raise ValueError(f"it belongs to {found.precision}")
        return found

    return kept_measurements.read(KIND, follows_from, parsed)


def store(follows_from: Mapping[str, Any], found: Agreement) -> bool:
    """Keep what a comparison found for the starts after it; whether that could be done.

    Raises:
        StoppedError: expected; the start was told to end, and nothing is left of this.
    """
    return kept_measurements.store(KIND, follows_from, asdict(found))


def facts(*, network: str, runtime: str, processor: str, precision: str, pictures: str, number: int) -> dict[str, Any]:
    """All that a comparison follows from, JSON-ready.

    Args:
        network: a hash of the network and of the code that makes it.
        runtime: by name.
        processor: what computes.
        precision: the reduced one.
        pictures: a hash of the files that the pictures are made of.
        number: pictures that are compared.
    """
    return {
        **kept_measurements.facts(network=network, runtime=runtime, processor=processor, precision=precision),
        "pictures": pictures,
        "number": number,
    }
