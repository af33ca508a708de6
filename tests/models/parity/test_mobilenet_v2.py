"""MobileNetV2 equals those of Keras Applications and torchvision, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.parity.reference import Case, check

_KERAS = {
    "stem": "Conv1_relu",
    "group1": "expanded_conv_project_BN",
    "group2": "block_2_add",
    "group3": "block_5_add",
    "group4": "block_9_add",
    "group5": "block_12_add",
    "group6": "block_15_add",
    "group7": "block_16_project_BN",
    "group8": "out_relu",
    "classifier": "predictions",
}
_LAST_BLOCKS = (1, 3, 6, 10, 13, 16, 17, 18)  # of torchvision's list, those that end a group of ours
_TORCHVISION = {
    "stem": "features.0",
    **{f"group{n}": f"features.{last}" for n, last in enumerate(_LAST_BLOCKS, start=1)},
    "classifier": "classifier",
}

CASES = [
    *(
        Case(
            architecture="mobilenet_v2",
            variant="keras",
            reference="keras:MobileNetV2",
            stages=_KERAS,
            options={"alpha": alpha},
            arguments={"alpha": alpha},
        )
        # 0.35 rounds widths to multiples of 8, 1.4 widens the last convolution too.
        for alpha in (1.0, 0.35, 1.4)
    ),
    Case(
        architecture="mobilenet_v2",
        variant="torchvision",
        reference="torchvision:mobilenet_v2",
        stages=_TORCHVISION,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mobilenet_v2_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
