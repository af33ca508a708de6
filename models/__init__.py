"""Glimpse's model library: blocks, architectures, pre-stem (preprocessing), weights and training.

Importing it, and reading specifications, recipes and bundles, loads neither Keras nor gRPC. `build` and all other
functions that need a network load Keras at their first use.
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
        variant: the published or described form of it, for example ``"keras"`` or ``"torchvision"``; by default the
            architecture's first one.
        classes: number of classes; by default the variant's.
        input_shape: (height, width, channels); by default the variant's.
        **options: values that replace those of the variant, for example ``alpha=0.5`` for ``"mobilenet"``. The error
            about an unknown option lists the valid ones.

    Returns:
        A functional `keras.Model` from float32 ``[N, height, width, channels]`` (already scaled by the
        pre-stem) to float32 logits ``[N, classes]``. It has no softmax, which serving applies to the logits divided by
        the calibration temperature. With auxiliary classifiers the output is a list: the logits, then theirs.

    Raises:
        UnknownArchitectureError: there is no such architecture, variant or option; the message lists similar names.
        ValueError: `classes`, `input_shape` or the value of an option is not valid.
    """
    from glimpse.models.builder import assemble
    from glimpse.models.catalogue import find

    return assemble(find(architecture, variant, options), classes=classes, input_shape=input_shape).model
