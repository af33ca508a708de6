"""What may be asked for besides the image: the one list of it, for all who ask.

`Client`, `AsyncClient` and the `Classifier` that needs no server take these as keyword arguments. Type checkers and
editors know each by its name and type (``Unpack`` of PEP 692).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ImageOptions(TypedDict, total=False):
    """What to return of each image, as a model answers it wherever it runs. All are optional."""

    top_k: int | None
    """How many predictions to return; without it 5, or all classes where there are fewer, or of a multi-label model all
    labels that are at least their threshold."""
    min_probability: float
    """Leave out predictions that are less probable than this, 0 to 1; without it 0."""
    geometry: str
    """How to fit the image to the network's input: ``crop``, ``squash``, ``letterbox`` or ``pad``. Of a server, one of
    those that it allows (``describe().limits.geometries``). If empty, the model's own."""
    outputs: Sequence[str]
    """What to return besides predictions: ``"embedding"``, ``"logits"`` or both, in a list, as far as the model has
    them (`ModelDescription.outputs`)."""
    allow: Sequence[str]
    """The classes that may answer, each by its label, a synonym, its class id, its index, or a group's name
    (`ModelDescription.groups`); if empty, all, or those of the server's default. Their probabilities add up to 1."""
    deny: Sequence[str]
    """Classes that may not answer, named likewise."""
    roll_up: float
    """Answer with a group of classes if no class alone is at least this probable and the group's classes together are,
    0 to 1; 0, as without it, means never."""
    novelty: bool | None
    """Tell whether the image shows any of the model's classes (`ImageResult.novelty`); without it, as the server does
    by default. A `Classifier` does not by default."""
    require_known: bool
    """No predictions if the image shows none of them; implies ``novelty``."""
    explain: str
    """Tell where in the image the score of a class comes from (`ImageResult.explanation`): ``"auto"``, ``"cam"`` or
    ``"occlusion"``; if empty, nothing."""
    explain_class: str
    """The class to explain, by its label, a synonym, its class id or its index; if empty, that of the first
    prediction."""


class Options(ImageOptions, total=False):
    """The same, and what only a server can be asked. All are optional."""

    embedding_type: str
    """The numbers in which embeddings travel: ``"float32"``, as without it, or ``"float16"``, which takes half the
    bytes."""
    model: str
    """The name of a loaded model; if empty, the server's default model."""
    version: str
    """The version of that model; if empty, its newest."""


def check_names(given: Mapping[str, Any], kind: type[ImageOptions]) -> None:
    """Refuse what is no option of that kind.

    Raises:
        TypeError: the message has the names of all options.
    """
    known = kind.__annotations__
    if unknown := given.keys() - known.keys():
        raise TypeError(f"There is no option {min(unknown)!r}. There are: {', '.join(known)}")
