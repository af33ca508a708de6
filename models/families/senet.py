"""SENets: residual networks with a squeeze-and-excitation block on every unit.

Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507.
"""

from __future__ import annotations

from dataclasses import replace

from glimpse.models.families.resnet import GERON_RESNET34, HANDBOOK_RESNET50, RESNET34, RESNET50, ResNet
from glimpse.models.families.resnext import RESNEXT50

_HU = "Hu et al., arXiv:1709.01507"
_RATIO = 16

_LEGACY_SE_RESNET50 = replace(
    RESNET50,
    name="se_resnet50_legacy",
    variant="timm",
    paper=_HU,
    # The authors' own networks, brought over from Caffe: it pools with a partial window at the border, and the
    # stride is on the 1x1.
    pool="ceil",
    stride_on="1x1",
    se_ratio=_RATIO,
    publisher="timm_legacy",
)

ROWS: tuple[ResNet, ...] = (
    replace(
        RESNET34,
        name="se_resnet34",
        variant="timm",
        paper=_HU,
        pool="ceil",
        # timm's legacy_seresnet34 has a ReLU in front of the SE block as well as behind the addition.
        activated="both",
        se_ratio=_RATIO,
        publisher="timm_legacy",
    ),
    # The book has the SE block in words and figures and the ResNet-34 in code; this is the one on the other.
    replace(
        GERON_RESNET34,
        name="se_resnet34",
        paper=f"{_HU}, as in Geron, Hands-On Machine Learning, chapter 14",
        se_ratio=_RATIO,
        publisher=None,
    ),
    replace(RESNET50, name="se_resnet50", variant="timm", paper=_HU, se_ratio=_RATIO, publisher="timm"),
    # The handbook's ResNet-50 with the SE block on it.
    replace(
        HANDBOOK_RESNET50,
        name="se_resnet50",
        paper=f"{_HU}, on the ResNet-50 of the Keras handbook of CNN architectures",
        se_ratio=_RATIO,
        publisher=None,
    ),
    _LEGACY_SE_RESNET50,
    replace(RESNEXT50, name="se_resnext50", variant="timm", paper=_HU, se_ratio=_RATIO, publisher="timm"),
    replace(
        _LEGACY_SE_RESNET50,
        name="senet154",
        depths=(3, 8, 36, 3),
        stem=(64, 64, 128),
        # Appendix of the paper: half the width in the first 1x1, all of it in the 3x3, in 64 groups.
        divisors=(2, 1),
        cardinality=64,
        projection_kernel=3,
        stride_on="3x3",
        dropout=0.2,
    ),
)
