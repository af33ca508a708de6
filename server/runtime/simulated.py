"""The simulated device: it takes the time of a device for each batch, on no core, and computes nothing.

For benchmarks of everything around the device, on machines that have none. A batch takes a stated time by its size, in
which the thread sleeps and the interpreter lock is free, as it is while a GPU computes. One batch is computed at a time
(one stream): the default times were measured from the host's pixels to the host's answers, one batch after the other.
"""

from __future__ import annotations

import dataclasses
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from glimpse.models.bundle import Bundle
from glimpse.models.outputs import DEFAULT_OUTPUTS, LOGITS, PROBABILITIES, Outputs
from glimpse.server.runtime import OneStream
from glimpse.server.runtimes import REFERENCE, Precision
from glimpse.server.settings.kinds import PrecisionChoice

# Images a second by batch size: ResNet-50 at 224 x 224 in bfloat16 with the JAX runtime on one H100 with 80 GB.
H100_RATES = {1: 469.0, 2: 997.0, 4: 2071.0, 8: 3890.0, 16: 6241.0, 32: 9854.0, 64: 12158.0}
H100_SECONDS: Mapping[int, float] = {size: size / rate for size, rate in H100_RATES.items()}

_STEP = 0.5  # between the logits of one class and the next
_CLEAR = 20  # classes; all behind them are as improbable as the last of these


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """What is to be simulated."""

    classes: int
    seconds: tuple[tuple[int, float], ...]  # batch size and the seconds that it takes, by rising size

    @classmethod
    def of(cls, classes: int, seconds: Mapping[int, float] | None = None) -> Self:
        """A device for so many classes.

        Args:
            classes: of the model.
            seconds: that a batch takes, by its size; none: those of an H100 with ResNet-50.
        """
        return cls(classes, tuple(sorted((seconds or H100_SECONDS).items())))

    def batch_seconds(self, size: int) -> float:
        """Seconds for a batch of that size.

        Between two stated sizes by the line through them; below the first as long as the first, and above the last at
        the rate of the last.
        """
        sizes = [stated for stated, _ in self.seconds]
        place = bisect_left(sizes, size)
        if place == len(sizes):
            last, seconds = self.seconds[-1]
            return seconds * size / last
        upper, above = self.seconds[place]
        if place == 0 or upper == size:
            return above
        lower, below = self.seconds[place - 1]
        return below + (above - below) * (size - lower) / (upper - lower)


class SimulatedRuntime(OneStream):
    """Sleeps as long as the device would compute, and gives each image the same answer."""

    name = "simulated"
    device = "simulated"
    outputs = frozenset({PROBABILITIES, LOGITS})

    def __init__(self, simulated: SimulatedDevice, precision: PrecisionChoice = "auto") -> None:
        """Take the times, and make the answer: class 0 is the most probable, each after it less than the one before."""
        self.precision = self.resolve(precision)
        self._simulated = simulated
        logits = -_STEP * np.minimum(np.arange(simulated.classes, dtype=np.float32), np.float32(_CLEAR))
        probabilities = np.exp(logits)
        self._answer = {LOGITS: logits, PROBABILITIES: probabilities / probabilities.sum()}
        self._answers: dict[int, Outputs] = {}  # by batch size: making them anew would take a core

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """float32 is all that it has, for nothing is computed.

        Raises:
            ValueError: expected; another precision is asked for.
        """
        if precision not in {"auto", REFERENCE}:
            raise ValueError(
                f"The simulated device computes nothing, so it has no {precision}. Set GLIMPSE_PRECISION to auto."
            )
        return REFERENCE

    def batch_sizes(self, largest: int, multiply_adds: int) -> tuple[int, ...]:  # noqa: ARG002 - the protocol's
        """The stated sizes up to `largest`, and `largest` itself; 0: all of them."""
        sizes = [size for size, _ in self._simulated.seconds]
        if not largest:
            return tuple(sizes)
        return (*(size for size in sizes if size < largest), largest)

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str] = DEFAULT_OUTPUTS) -> Outputs:
        """The outputs of these names, each ``[N, classes]``, when the time of a batch of ``[N, H, W, C]`` is over."""
        time.sleep(self._simulated.batch_seconds(len(pixels)))
        answers = self._answers.get(len(pixels))
        if answers is None:
            answers = {name: np.tile(values, (len(pixels), 1)) for name, values in self._answer.items()}
            for values in answers.values():
                values.setflags(write=False)
            self._answers[len(pixels)] = answers
        return {name: answers[name] for name in outputs}


def renamed(bundle: Bundle) -> Bundle:
    """The bundle as a simulated device serves it, so that no reply can be taken for that of the real model.

    A score of novelty that looks into the network is left out: nothing is computed there.
    """
    novelty = bundle.novelty if bundle.novelty is None or bundle.novelty.needs <= SimulatedRuntime.outputs else None
    return dataclasses.replace(bundle, name=f"{bundle.name}_simulated", novelty=novelty)
