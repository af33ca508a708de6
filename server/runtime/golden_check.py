"""The check before SERVING: the runtime must give the recorded answers, or at least answers that can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from glimpse.models import golden
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.heads import SOFTMAX, Head
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.prepare import prepare
from glimpse.server.errors import InvalidImageError
from glimpse.server.processes.startup import GoldenError
from glimpse.server.runtimes import PRECISIONS

_log = structlog.get_logger(__name__)

_SUM = 1e-3  # by which the probabilities of a picture may miss 1

_LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=25_000_000)  # the server's own may be tighter; these are our files


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Pictures to warm up with, and what their answers must be. `check` is safe from several threads."""

    pictures: NDArray[np.uint8]  # [P, H, W, C]
    names: tuple[str, ...]  # of the pictures
    expected: NDArray[np.float32] | None  # [P, classes]; None: nothing is recorded
    disabled: bool  # nothing is checked
    head: Head = SOFTMAX  # of the model
    user_model: bool = False  # a network of the user's own or with random weights, which may answer all alike
    _warned: set[str] = field(default_factory=set, repr=False, compare=False)  # warnings that have been logged

    def batch(self, size: int) -> NDArray[np.uint8]:
        """A batch of the pictures in turn: ``[size, H, W, C]``."""
        return np.take(self.pictures, range(size), axis=0, mode="wrap")

    def check(self, answers: NDArray[np.float32], *, runtime: str, precision: str) -> None:
        """Look at the answers to a `batch`: ``[size, classes]``.

        Raises:
            GoldenError: expected; they are not what was recorded, or cannot be probabilities.
        """
        if self.disabled:
            return
        where = f"{runtime} in {precision}, in a batch of {len(answers)}"
        for row, found in enumerate(answers):
            number = row % len(self.pictures)
            self._check_probabilities(found, f"{self.names[number]} ({where})")
            if self.expected is not None:
                self._check_recorded(
                    found, self.expected[number], f"{self.names[number]} ({where})", PRECISIONS[precision].tolerance
                )
        # A bundle may have the answer to one picture alone, which then fills the batch.
        if len(self.pictures) > 1 and len(answers) > 1 and np.array_equal(answers[0], answers[1]):
            self._check_distinct(answers[0], where)

    def _check_distinct(self, found: NDArray[np.float32], where: str) -> None:
        """Refuse or warn of a model that gives two very different pictures the very same answer.

        Weights of zeros make every class equally probable. A network that has not been trained can do that, too, or
        have answers that differ by less than float32 can tell; so one of the user's own, which has been compared with
        Keras, or an answer that prefers a class, serves with a warning.
        """
        what = (
            f"The model gives exactly the same answer for {self.names[0]} and {self.names[1]} ({where}), which are "
            "very different pictures."
        )
        if not self.user_model and (found == found[0]).all():
            raise GoldenError(f"{what} {_ADVICE}")
        if "alike" not in self._warned:
            self._warned.add("alike")
            _log.warning("answers do not depend on the picture", detail=f"{what} Has it been trained?")

    def _check_probabilities(self, found: NDArray[np.float32], what: str) -> None:
        if not self.head.exclusive:
            if np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all():
                return
            raise GoldenError(
                f"The answer for {what} has invalid probabilities: they must be finite, and from 0 to 1. Received: "
                f"{_shown(found)}. {_ADVICE}"
            )
        if not np.isfinite(found).all() or (found < 0).any() or abs(float(found.sum()) - 1) > _SUM:
            raise GoldenError(
                f"The answer for {what} has invalid probabilities: they must be finite, at least 0, and add up to 1. "
                f"Received: {_shown(found)}, which adds up to {float(found.sum()):.6g}. {_ADVICE}"
            )

    def _check_recorded(
        self, found: NDArray[np.float32], expected: NDArray[np.float32], what: str, tolerance: float
    ) -> None:
        if found.shape != expected.shape:
            raise GoldenError(f"The answer for {what} has {found.shape} values. Expected: {expected.shape}. {_ADVICE}")
        worst = int(np.abs(found - expected).argmax())
        difference = abs(float(found[worst] - expected[worst]))
        if difference <= tolerance and self._same_answer(found, expected):
            return
        raise GoldenError(
            f"The answer for {what} differs from the recorded one. Expected: {_shown(expected)}. Received: "
            f"{_shown(found)}. "
            f"The largest difference, {difference:.6f}, is in class {worst}; {tolerance} is allowed. {_ADVICE}"
        )

    def _same_answer(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
        """Whether the first class is the same, or of a multi-label model the labels over their thresholds."""
        if self.head.exclusive:
            return bool(found.argmax() == expected.argmax())
        return bool((self.head.passed(found) == self.head.passed(expected)).all())


_ADVICE = (
    "Check the weights, and set GLIMPSE_PRECISION=float32 or another GLIMPSE_RUNTIME. GLIMPSE_GOLDEN=off serves the "
    "model without this check."
)


def load(bundle: Bundle, mode: Literal["require", "auto", "off"]) -> GoldenCheck:
    """The golden check of a bundle.

    Args:
        bundle: what is to be served.
        mode: ``auto``: recorded answers where there are some, else only what holds for every model; ``require``: a
            model without is refused; ``off``: nothing is checked, with a warning.

    Raises:
        GoldenError: expected; answers are required and missing, or do not belong to the bundle.
    """
    if bundle.random:
        _log.warning(
            "random weights",
            model=bundle.name,
            detail="The model has not been trained: its answers mean nothing. Its speed and memory are those of a "
            "trained one.",
        )
    if mode == "off":
        _log.warning("golden answers not checked", model=bundle.name, detail="GLIMPSE_GOLDEN is off.")
        return GoldenCheck(_different(bundle.recipe), ("black", "noise"), None, disabled=True)
    try:
        recorded = golden.read(bundle)
    except BundleError as error:
        raise GoldenError(str(error)) from error
    if recorded:
        fit = partial(prepare, recipe=bundle.recipe, limits=_LIMITS)
        try:
            pixels = [fit(domain.EncodedImage(each.picture.data)).pixels for each in recorded]
        except InvalidImageError as error:
            raise GoldenError(
                f"A picture of the golden answers of {bundle.name} cannot be decoded: {error.message} Record them "
                f"again: python -m glimpse.models golden {bundle.folder}"
            ) from error
        names = tuple(each.picture.name for each in recorded)
        expected = np.stack([each.probabilities for each in recorded])
        return GoldenCheck(np.stack(pixels), names, expected, disabled=False, head=bundle.head)
    if mode == "require":
        if bundle.random:
            raise GoldenError(
                f"The model {bundle.name} has random weights, for which no answers are recorded, and GLIMPSE_GOLDEN is "
                "require. Set GLIMPSE_GOLDEN to auto, or serve trained weights."
            )
        raise GoldenError(
            f"The model {bundle.name} has no golden answers, and GLIMPSE_GOLDEN is require. Record them in its bundle: "
            "python -m glimpse.models golden FOLDER"
        )
    return GoldenCheck(
        _different(bundle.recipe),
        ("black", "noise"),
        None,
        disabled=False,
        head=bundle.head,
        user_model=not bundle.architecture or bundle.random,
    )


def of_simulated(bundle: Bundle, mode: Literal["require", "auto", "off"]) -> GoldenCheck:
    """The golden check of a bundle on a simulated device: none, and a warning that says why.

    Args:
        bundle: whose name and labels are served.
        mode: ``require`` refuses a simulated device.

    Raises:
        GoldenError: expected; answers are required.
    """
    if mode == "require":
        raise GoldenError(
            "GLIMPSE_GOLDEN is require, and a simulated device computes no answers. Set another GLIMPSE_RUNTIME to "
            "serve the model, or GLIMPSE_GOLDEN to auto to measure with the simulated device."
        )
    _log.warning(
        "simulated device",
        model=bundle.name,
        detail="Nothing is computed: every image gets the same made-up answer, after the time that a device would "
        "take, and the golden answers are not checked. It is for benchmarks of the server alone.",
    )
    return GoldenCheck(_different(bundle.recipe), ("black", "noise"), None, disabled=True)


def _different(recipe: Recipe) -> NDArray[np.uint8]:
    """Two pictures that no network can take for the same: a black one, and noise."""
    noise = np.random.default_rng(0).integers(0, 256, recipe.shape, np.uint8)
    return host.whole(np.stack([np.zeros(recipe.shape, np.uint8), noise]), recipe)


def _shown(probabilities: NDArray[np.float32]) -> str:
    """The most probable class, for people."""
    first = int(probabilities.argmax())
    return f"class {first} with {float(probabilities[first]):.6f}"
