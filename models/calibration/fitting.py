"""Temperature and threshold of novelty, fitted on one half of labelled images and measured on the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from glimpse.models import drift
from glimpse.models.calibration.debiased import debiased_error
from glimpse.models.calibration.inner import Embedded, Inner
from glimpse.models.calibration.rounding import DIGITS, rounded_up
from glimpse.models.novelty import novelty
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import LOGITS
from glimpse.models.train.calibrate import fit_temperature, log_softmax, reliability
from glimpse.models.train.measure import Measurement, measure

FEWEST = 2 * novelty.FEWEST_IMAGES  # images, of which half are fitted on
_SEED = 0  # of the halves: the same images are fitted on each time
_DRAWS = 200  # of true classes, to learn what chance alone makes of the calibration error


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well a score tells the images of one foreign set from known ones that it was not fitted on."""

    images: int
    auroc: float
    caught: float  # share of the foreign images above the threshold, 0..1
    fitted: bool = True  # whether the score was chosen by, or fitted on, other images of the set


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was fitted, and what it does to images that it was not fitted on.

    Attributes:
        temperature: fitted.
        threshold: of novelty, fitted, with the score that was chosen.
        fitted_on: images.
        before: the measurement at the temperature that the model had before, on the other images.
        after: at the fitted one.
        chance: the expected calibration error that perfectly calibrated probabilities would show on as many images.
        debiased: the calibration error of the other images before and after, less what chance adds to it.
        debiased_chance: what perfectly calibrated probabilities would show of that on average.
        rejected: the share of known images, of those not fitted on, above the threshold.
        foreign: by the name of the foreign set, what the chosen score does.
        aurocs: by the name of each score, the AUROC of each foreign set.
    """

    temperature: float
    threshold: NoveltyThreshold
    fitted_on: int
    before: Measurement
    after: Measurement
    chance: float
    debiased: tuple[float, float]
    debiased_chance: float
    rejected: float
    foreign: Mapping[str, Detection]
    aurocs: Mapping[str, Mapping[str, float]]


def fit_novelty(
    known: NDArray[np.floating], foreign: Mapping[str, NDArray[np.floating]], score: str = ""
) -> NoveltyThreshold:
    """The threshold that 95% of known images pass.

    Args:
        known: ``[N, classes]``, logits of images that the network was not trained on.
        foreign: ``[M, classes]`` of images that show none of the classes, by the name of their set; may be empty.
        score: one of `models.novelty.novelty.SCORES`; empty: the one with the highest mean AUROC of the sets, or
            the default one where there are none.

    Raises:
        ValueError: there are too few images.
    """
    if not score:
        score = best_score(aurocs(known, foreign)) if foreign else novelty.DEFAULT_SCORE
    scores = novelty.score(score, known)
    threshold = novelty.fit_threshold(scores)
    return NoveltyThreshold(score=score, threshold=rounded_up(threshold), images=len(known))


def best_score(found: Mapping[str, Mapping[str, float]]) -> str:
    """The score with the highest mean over the foreign sets."""
    return max(found, key=lambda name: sum(found[name].values()))


def aurocs(known: NDArray[np.floating], foreign: Mapping[str, NDArray[np.floating]]) -> dict[str, dict[str, float]]:
    """By the name of each score, the AUROC of each foreign set, from logits ``[N, classes]``."""
    return {
        name: {
            which: novelty.auroc(novelty.score(name, known), novelty.score(name, logits))
            for which, logits in foreign.items()
        }
        for name in novelty.SCORES
    }


def calibrate(
    logits: NDArray[np.float32],
    classes: NDArray[np.int64],
    foreign: Mapping[str, NDArray[np.float32]],
    *,
    before: float = 1.0,
    score: str = "",
    keep: bool = False,
    inner: Inner | Embedded | None = None,
    measured_only: Collection[str] = (),
) -> Calibration:
    """Fit on a random half of the images, the same each time, and measure on the other half.

    Args:
        logits: ``[N, classes]`` of images that the network was not trained on.
        classes: ``[N]``, the true ones.
        foreign: ``[M, classes]`` of images that show none of the classes, by the name of their set.
        before: the temperature that the model has.
        score: of novelty; empty: the one that tells the foreign images best.
        keep: the temperature stays as it is.
        inner: what a score that looks into the network is fitted from, which is then the one of novelty.
        measured_only: names of foreign sets by which nothing is chosen or fitted.

    Raises:
        ValueError: there are too few images.
    """
    if len(logits) < FEWEST:
        raise ValueError(
            f"Calibrating needs at least {FEWEST} images, of which one half is fitted on and the other measured; some "
            f"hundreds make it reliable. Received: {len(logits)}"
        )
    order = np.random.default_rng(_SEED).permutation(len(logits))
    half = len(logits) // 2
    fitted, held = order[:half], order[half:]
    temperature = before if keep else round(fit_temperature(logits[fitted], classes[fitted]), DIGITS)
    # The score is chosen and fitted with every other foreign image, and measured with those between them.
    chosen_by = {name: each for name, each in foreign.items() if name not in measured_only}
    given = {name: {LOGITS: each, **(inner.of_foreign(name) if inner else {})} for name, each in foreign.items()}
    judged = {
        name: {output: _judged(each) if name in chosen_by else each for output, each in outputs.items()}
        for name, outputs in given.items()
    }
    found_aurocs = aurocs(logits[held], {name: outputs[LOGITS] for name, outputs in judged.items()})
    if inner is None:
        threshold = fit_novelty(logits[fitted], {name: each[::2] for name, each in chosen_by.items()}, score)
    else:
        threshold = inner.judged_by(fitted, logits, chosen_by)
    of_known = {LOGITS: logits, **(inner.of_known() if inner else {})}
    known = threshold.scores({output: each[held] for output, each in of_known.items()})
    others = {name: threshold.scores(outputs) for name, outputs in judged.items()}
    if inner is not None:
        found_aurocs[threshold.score] = {name: novelty.auroc(known, each) for name, each in others.items()}
    answers = np.exp(log_softmax(logits[held], temperature))
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        fitted_on=half,
        before=measure(logits[held], classes[held], before),
        after=measure(logits[held], classes[held], temperature),
        chance=error_by_chance(answers),
        debiased=(
            _debiased(np.exp(log_softmax(logits[held], before)), classes[held]),
            _debiased(answers, classes[held]),
        ),
        debiased_chance=debiased_by_chance(answers),
        rejected=float((known > threshold.threshold).mean()),
        foreign={
            name: replace(_detected(known, each, threshold.threshold), fitted=name in chosen_by)
            for name, each in others.items()
        },
        aurocs=found_aurocs,
    )


def _judged(foreign: NDArray[np.float32]) -> NDArray[np.float32]:
    """Those that are measured: every other one, by which the score was not chosen."""
    return foreign[1::2] if len(foreign) > 1 else foreign


def _detected(known: NDArray[np.float64], foreign: NDArray[np.float64], threshold: float) -> Detection:
    return Detection(
        images=len(foreign),
        auroc=novelty.auroc(known, foreign),
        caught=float((foreign > threshold).mean()),
    )


def error_by_chance(probabilities: NDArray[np.floating]) -> float:
    """The expected calibration error that these probabilities would show on average if they were exactly right.

    Each bin holds few images, whose share of right answers differs from the probability by chance, and the error adds
    the differences up: of 325 images it is some 4.5% without any fault (Kumar et al., arXiv:1909.10155, section 4).
    True classes are drawn from the probabilities themselves.

    Args:
        probabilities: ``[N, classes]``.
    """
    # Whether the first answer is right is all that counts, and it is so with its own probability.
    top = np.asarray(probabilities.max(axis=1), np.float64)
    rng = np.random.default_rng(_SEED)
    first_alone = np.stack([top, np.zeros(len(top))], axis=1)
    return float(
        np.mean([reliability(first_alone, (rng.random(len(top)) >= top).astype(np.int64)).error for _ in range(_DRAWS)])
    )


def _debiased(probabilities: NDArray[np.floating], classes: NDArray[np.int64]) -> float:
    return debiased_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == classes)


def debiased_by_chance(probabilities: NDArray[np.floating]) -> float:
    """The debiased error that these probabilities ``[N, classes]`` would show on average if they were exactly right."""
    top = np.asarray(probabilities.max(axis=1), np.float64)
    rng = np.random.default_rng(_SEED)
    return float(np.mean([debiased_error(top, rng.random(len(top)) < top) for _ in range(_DRAWS)]))


def reference(
    logits: NDArray[np.floating],
    figures: Mapping[str, NDArray[np.floating]],
    temperature: float,
    threshold: NoveltyThreshold | None,
    more: Mapping[str, NDArray[np.floating]] | None = None,
) -> drift.Reference:
    """The reference of drift of N images and of the answers to them.

    Args:
        logits: ``[N, classes]``.
        figures: ``[N]``, of the images, by the names of `models.drift.OF_IMAGES`.
        temperature: of the answers.
        threshold: whose score is among the figures; None: none is.
        more: what else the threshold's score needs, ``[N, ...]``, by the names of `models.outputs`.

    Raises:
        ValueError: there are too few images.
    """
    answers = drift.answer_figures(np.exp(log_softmax(logits, temperature)))
    given = {**(more or {}), LOGITS: logits}
    scores = {} if threshold is None else {"novelty": threshold.scores(given)}
    told = {"top_probability": answers.top_probability, "margin": answers.margin, "entropy": answers.entropy}
    return drift.Reference.of(answers.first, {**figures, **told, **scores})
