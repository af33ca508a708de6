"""Whether images show any of a model's classes: what a request asks for, and the verdict on each of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glimpse.models.bundle import Bundle
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import Outputs
from glimpse.server.domain import ClassifyRequest, ImageResult, Novelty
from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.fields import Field


def threshold(request: ClassifyRequest, bundle: Bundle, *, default: bool) -> NoveltyThreshold | None:
    """What the images of a request are judged by; None: they are not judged.

    Args:
        request: what is asked for.
        bundle: of the model that answers.
        default: judge images where the request does not say, and the model has a threshold.

    Raises:
        InvalidRequestError: expected; the request asks for it, and the model has no threshold.
    """
    asked = request.novelty or request.require_known
    if not asked and (request.novelty is False or not default or not request.ranked):
        return None
    if asked and not bundle.head.exclusive:
        raise InvalidRequestError(
            Reason.NO_NOVELTY_THRESHOLD,
            f"{bundle.name} is a multi-label model, whose answer for an image that shows none of its labels is that no "
            f"label is at least its threshold. Leave {' and '.join(_asked(request))} out.",
            field=_asked(request)[0],
        )
    if asked and bundle.novelty is None:
        raise InvalidRequestError(
            Reason.NO_NOVELTY_THRESHOLD,
            f"{bundle.name} has no threshold of novelty, so that it cannot tell whether an image shows any of its "
            "classes. Fit one with: python -m glimpse.models calibrate --data FOLDER NAME; or leave "
            f"{' and '.join(_asked(request))} out.",
            field=_asked(request)[0],
        )
    return bundle.novelty


def _asked(request: ClassifyRequest) -> list[Field]:
    """By which of its options a request asks for it."""
    options = (Field.REQUIRE_KNOWN, request.require_known), (Field.NOVELTY, request.novelty)
    return [each for each, asked in options if asked]


def told_novelty(
    results: Sequence[ImageResult],
    outputs: Sequence[Outputs | None],
    fitted: NoveltyThreshold,
    *,
    require_known: bool,
) -> tuple[ImageResult, ...]:
    """The results of a request with the verdict on each image, computed for all of them at once.

    Args:
        results: of its images.
        outputs: of each of them, those that `fitted` needs among them; None: it could not be classified.
        fitted: what they are judged by.
        require_known: no predictions of images that are unknown.
    """
    found = [each for each in outputs if each is not None]
    if not found:
        return tuple(results)
    needed = {name: np.stack([each[name] for each in found]) for name in fitted.needs}
    scores = iter(fitted.scores(needed).tolist())

    def judged(result: ImageResult) -> ImageResult:
        verdict = Novelty(next(scores), fitted.threshold)
        predictions = result.predictions if verdict.known or not require_known else ()
        return replace(result, predictions=predictions, novelty=verdict)

    return tuple(result if each is None else judged(result) for result, each in zip(results, outputs, strict=True))
