"""Glimpse's model library: blocks, architectures, pre-stem, weights and training.

The plain-data half (specifications, recipes, bundles) imports neither Keras nor gRPC, so that tools can
read it cheaply; `build` and everything that touches a graph load Keras on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.catalogue import architectures
from models.spec import Architecture, Stage, StageSummary

if TYPE_CHECKING:
    import keras

__all__ = ["Architecture", "Stage", "StageSummary", "architectures", "build"]


def build(
    architecture: str,
    *,
    variant: str | None = None,
    classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> keras.Model:
    """Build an architecture of the library with freshly initialised weights.

    Args:
        architecture: a name from `architectures()`, for example ``"se_resnet20"``.
        variant: which published or described form; the architecture's first one when left out.
        classes: number of classes; the variant's own when left out.
        input_shape: (height, width, channels); the variant's own when left out.

    Returns:
        A functional `keras.Model` from float32 ``[N, height, width, channels]`` (already scaled by the
        pre-stem) to float32 logits ``[N, classes]``. There is no softmax: serving applies it behind the
        calibration temperature.

    Raises:
        UnknownArchitectureError: the name or variant is not in the library; the message lists near matches.
        ValueError: `classes` or `input_shape` cannot work.
    """
    from models.builder import assemble
    from models.catalogue import find

    return assemble(find(architecture, variant), classes=classes, input_shape=input_shape).model
