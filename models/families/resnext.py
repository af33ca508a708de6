"""ResNeXt: residual networks whose 3x3 convolutions are split into groups.

Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", arXiv:1611.05431.
"""

from __future__ import annotations

from dataclasses import replace

from glimpse.models.families.resnet import RESNET50, ResNet
from glimpse.models.spec import Convention

_XIE = "Xie et al., arXiv:1611.05431"

# 32x4d: 32 groups of 4 channels in the first group's units.
RESNEXT50 = replace(RESNET50, name="resnext50", paper=_XIE, divisors=(2, 2), cardinality=32)

ROWS: tuple[ResNet, ...] = (
    RESNEXT50,
    # Keras Applications publish the weights; they have no function that builds the network.
    replace(
        RESNEXT50,
        variant="keras",
        convention=Convention(epsilon=1.001e-5, padding="symmetric"),
        publisher="keras_resnext",
    ),
    # Text and code disagree. The text counts 25 million trainable parameters; the code has 26.4, because a strided 1x1
    # convolution, not normalised, stands in front of each group but the first. Every group of a 3x3 is to see its own
    # slice of the channels, as it does here; the code binds the slice late, so that under Keras 3 all 32 see the last
    # one. factorized=True is the handbook's hypothetical figure 3D, whose printed counts (16,777,960 parameters, of
    # which 16,701,800 are trainable) are right.
    replace(
        RESNEXT50,
        variant="handbook",
        paper=f"{_XIE}, as in the Keras handbook of CNN architectures",
        pool="same",
        transition="conv",
        convention=Convention(bias=True, initializer="glorot_uniform"),
        publisher="handbook",
    ),
)
