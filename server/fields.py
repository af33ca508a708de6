"""What of a request an error is about, and what callers call it.

The checks are the same for every transport, and none of them knows by which one a request came. So an error says which
of the plain values in `server/domain.py` it is about, and each method has a table with the names that its callers use.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Field(StrEnum):
    """A part of `ClassifyRequest`, of whose checks no transport has its own."""

    MODEL = "model.name"
    VERSION = "model.version"
    IMAGES = "images"
    TOP_K = "top_k"
    MIN_PROBABILITY = "min_probability"
    GEOMETRY = "geometry"
    OUTPUTS = "outputs"
    NOVELTY = "novelty"
    REQUIRE_KNOWN = "require_known"
    ALLOW = "classes.allow"
    DENY = "classes.deny"
    ROLL_UP = "roll_up"
    EXPLAIN = "explain.method"
    EXPLAIN_CLASS = "explain.class_name"


Names = Mapping[str, str]  # by the field of an error; what is not in it is a transport's own name already

# As `ClassifyRequest` of `glimpse.v1` has them. The errors of `glimpse.Classifier` have the same.
CONTRACT: Final[Names] = {
    Field.MODEL: "model.name",
    Field.VERSION: "model.version",
    Field.IMAGES: "images",
    Field.TOP_K: "options.top_k",
    Field.MIN_PROBABILITY: "options.min_probability",
    Field.GEOMETRY: "options.geometry",
    Field.OUTPUTS: "options.outputs",
    Field.NOVELTY: "options.novelty",
    Field.REQUIRE_KNOWN: "options.require_known",
    Field.ALLOW: "options.classes.allow",
    Field.DENY: "options.classes.deny",
    Field.ROLL_UP: "options.roll_up",
    Field.EXPLAIN: "options.explain",
    Field.EXPLAIN_CLASS: "options.explain_class",
}
