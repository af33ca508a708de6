"""Xception equals those of Keras Applications and timm, stage by stage."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from tests.models.parity.reference import Case, check

CASES = [
    Case(
        architecture="xception",
        variant="keras",
        reference="keras:Xception",
        # The additions have no names but Keras' numbers: of the third block (add_2) and of the eleventh.
        stages={
            "stem": "block1_conv2_act",
            "group1": "add_2",
            "group2": "add_10",
            "group3": "block14_sepconv2_act",
            "classifier": "predictions",
        },
    ),
    Case(
        architecture="xception",
        variant="timm",
        reference="timm:legacy_xception",
        stages={"stem": "act2", "group1": "block3", "group2": "block11", "group3": "act4", "classifier": "fc"},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_xception_equals_its_reference(case: Case, tmp_path: Path) -> None:
    keras.utils.clear_session()  # the numbers begin anew
    check(case, tmp_path)
