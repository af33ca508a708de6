"""Glimpse's model library: blocks, architectures, pre-stem, weights and training.

The plain-data half (specifications, recipes, bundles) imports neither Keras nor gRPC, so that tools can
read it cheaply; `build` and everything that touches a graph load Keras on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimpse.models.catalogue import architectures
from glimpse.models.spec import Architecture, Stage, StageSummary

if TYPE_CHECKING:
    import keras

__all__ = ["Architecture", "Stage", "StageSummary", "architectures", "build"]


def build(
    architecture: str,
    *,
    variant: str | None = None,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> keras.Model:
    """Build an architecture of the library with freshly initialised weights.

    Args:
        architecture: a name from `architectures()`, for example ``"se_resnet20"``.
        variant: which published or described form; the architecture's first one when left out.
        classes: number of classes; the variant's own when left out.
        input_shape: (height, width, channels); the variant's own when left out.
        **options: in place of the variant's own values, for example ``alpha=0.5`` of ``"mobilenet"``; which there are,
            an unknown one tells.

    Returns:
        A functional `keras.Model` from float32 ``[N, height, width, channels]`` (already scaled by the
        pre-stem) to float32 logits ``[N, classes]``. There is no softmax: serving applies it behind the
        calibration temperature. With auxiliary classifiers the output is a list: the logits, then theirs.

    Raises:
        UnknownArchitectureError: the name, variant or option is not in the library; the message lists near matches.
        ValueError: `classes`, `input_shape` or an option's value cannot work.
    """
    from glimpse.models.builder import assemble
    from glimpse.models.catalogue import find

    return assemble(find(architecture, variant, options), classes=classes, input_shape=input_shape).model
