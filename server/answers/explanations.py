"""Why an answer is what it is: what a request asks for, and the map that each of its images gets.

Two methods: class activation maps (`models.class_maps`), which are exact and cost nearly nothing, of the networks that
have them; and occlusion (`server.answers.occlusion`), for which any network is computed several times, each of which
counts as an image of its caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from glimpse.models import map_rows
from glimpse.models.decoding.decode import upright_size
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.models.outputs import CLASS_MAPS, LOGITS, Outputs
from glimpse.models.prestem.area import covered
from glimpse.server.answers.occlusion import COPIES, occluded
from glimpse.server.domain import Caller, ClassChoice, ClassifyRequest, Explanation, Image, ImageResult, RawImage
from glimpse.server.errors import InvalidRequestError, Reason, shown
from glimpse.server.fields import Field
from glimpse.server.nouns import noun

if TYPE_CHECKING:
    from glimpse.models.prestem.recipe import Recipe
    from glimpse.server.answers.class_choice import Chosen
    from glimpse.server.decoding.pool import DecodePool
    from glimpse.server.loaded_model import LoadedModel

AUTO: Final = "auto"
CAM: Final = "cam"
OCCLUSION: Final = "occlusion"
METHODS: Final = (CAM, OCCLUSION)


@dataclass(frozen=True, slots=True)
class Input:
    """What is kept of an image until its answer is explained."""

    pixels: NDArray[np.uint8] | None  # the network's input; None: not needed
    size: tuple[int, int]  # width and height of the photo as a viewer shows it


def methods(model: LoadedModel) -> tuple[str, ...]:
    """How a model's answers can be explained, the one first that is used where a request does not say."""
    return METHODS if model.network.maps is not None else (OCCLUSION,)


def copies(request: ClassifyRequest, model: LoadedModel) -> int:
    """How many images the explanations of a request take besides its own."""
    return COPIES * len(request.images) if _method(request, model) == OCCLUSION else 0


def _method(request: ClassifyRequest, model: LoadedModel) -> str:
    """The method that explains the answers to a request; empty: it does not ask for that."""
    if request.explain is None:
        return ""
    return methods(model)[0] if request.explain.method == AUTO else request.explain.method


def explaining(
    request: ClassifyRequest, model: LoadedModel, recipe: Recipe, chosen: Chosen | None, *, max_images: int
) -> Explaining | None:
    """What explains the answers to a request; None: it does not ask for that.

    Args:
        request: what is asked for.
        model: that answers it.
        recipe: of the request.
        chosen: the classes that may answer; None: all.
        max_images: that a request may have, those counted that the network is computed for besides.

    Raises:
        InvalidRequestError: expected; it cannot be.
    """
    if request.explain is None:
        return None
    method, able = _method(request, model), methods(model)
    if method not in METHODS:
        known = ", ".join((AUTO, *METHODS))
        raise InvalidRequestError(
            Reason.CANNOT_EXPLAIN, f"explain must be one of {known}. Received: {shown(method)}", field=Field.EXPLAIN
        )
    if method not in able:
        raise InvalidRequestError(
            Reason.CANNOT_EXPLAIN,
            f"{model.bundle.name} has no class activation maps, because it does not end in global average pooling and "
            f"one dense layer, or is a graph of another framework. Ask for {AUTO} or {OCCLUSION}.",
            field=Field.EXPLAIN,
        )
    most = max_images // (1 + COPIES)
    if method == OCCLUSION and len(request.images) > most:
        advice = "Send several requests." if most else "The server has to allow more images in a request."
        raise InvalidRequestError(
            Reason.TOO_MANY_IMAGES,
            f"Each image that is explained by occlusion counts as {1 + COPIES}, and a request may have at most "
            f"{max_images}: {most} such {noun(most, 'image')}. Received: {len(request.images)}. {advice}",
            field=Field.IMAGES if most else Field.EXPLAIN,
        )
    name = request.explain.class_name
    return Explaining(method, model, recipe, _classes(name, model, chosen), named=bool(name))


def _classes(name: str, model: LoadedModel, chosen: Chosen | None) -> NDArray[np.intp] | None:
    """The indices of the classes of which the most probable one is explained; None: of all."""
    if not name:
        return None if chosen is None else chosen.classes
    try:
        return model.classes.chosen(ClassChoice((name,))).classes
    except InvalidRequestError as error:
        raise InvalidRequestError(error.reason, error.message, field=Field.EXPLAIN_CLASS) from None


@dataclass(frozen=True, slots=True)
class Explaining:
    """Explains the answers to one request."""

    method: str
    model: LoadedModel
    recipe: Recipe
    classes: NDArray[np.intp] | None  # of which the most probable one is explained; None: of all
    named: bool  # by the request, which does not ask for the first that is answered

    @property
    def needs(self) -> frozenset[str]:
        """The outputs that it needs."""
        return frozenset({LOGITS, CLASS_MAPS}) if self.method == CAM else frozenset({LOGITS})

    def keep(self, image: Image, pixels: NDArray[np.uint8]) -> Input:
        """What has to be kept of an image; `pixels` are the network's input. In a decoder thread."""
        return Input(pixels if self.method == OCCLUSION else None, _size(image, self.recipe))

    async def explained(
        self,
        results: Sequence[ImageResult],
        kept: Sequence[tuple[Input, Outputs] | None],
        caller: Caller,
        decoders: DecodePool,
    ) -> tuple[ImageResult, ...]:
        """The results of a request with an explanation each.

        Args:
            results: of its images.
            kept: of each of them, with its outputs; None: it could not be classified.
            caller: who asks, and until when.
            decoders: make what the network is computed for besides.

        Raises:
            ServiceError: expected; what ends the request as a whole.
        """
        told: list[ImageResult] = []
        for result, each in zip(results, kept, strict=True):  # one after the other: each may take a lot of memory
            found = None if each is None else await self._explanation(result, *each, caller, decoders)
            told.append(result if found is None else replace(result, explanation=found))
        return tuple(told)

    async def _explanation(
        self, result: ImageResult, kept: Input, outputs: Outputs, caller: Caller, decoders: DecodePool
    ) -> Explanation | None:
        """That of an image; None: the class is not among those that have a class activation map."""
        model, logits = self.model, outputs[LOGITS]
        index = self._index(result, logits)
        values: NDArray[np.float32] | None
        if kept.pixels is not None:
            covers = await occluded(kept.pixels, self.recipe.depth, caller, model.batcher, decoders)
            values = logits[index] - covers[..., index]
        else:
            values = map_rows.of_class(outputs[CLASS_MAPS], index, model.network.maps or (0, 0))
        if values is None:
            return None
        lowest, highest = float(values.min()), float(values.max())
        area = covered(kept.size, self.recipe)
        return Explanation(
            index, model.bundle.labels[index], self.method, _in_bytes(values, lowest, highest), lowest, highest, area
        )

    def _index(self, result: ImageResult, logits: NDArray[np.float32]) -> int:
        """The class that is explained."""
        if not self.named and result.predictions:
            return result.predictions[0].index
        return int(logits.argmax() if self.classes is None else self.classes[logits[self.classes].argmax()])


def _in_bytes(values: NDArray[np.float32], lowest: float, highest: float) -> NDArray[np.uint8]:
    """From 0 at the lowest value to 255 at the highest one; all 0 where they are the same."""
    if highest == lowest:
        return np.zeros(values.shape, np.uint8)
    # Divided before it is multiplied: 255 over a very small difference is more than a float32 holds.
    return np.asarray(((values - lowest) / (highest - lowest) * 255).round().astype(np.uint8))


def _size(image: Image, recipe: Recipe) -> tuple[int, int]:
    """Width and height of an image that has been decoded, as a viewer shows it."""
    if isinstance(image, RawImage):
        return image.width, image.height
    try:
        return upright_size(image.data)
    except RefusedImageError:  # not where its pixels are there; and a map over the whole input is better than an error
        return recipe.width, recipe.height
