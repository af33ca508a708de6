"""VGG equals Keras Applications', torchvision's and timm's, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.parity.reference import Case, check

_KERAS = {
    "stem": "block1_conv1",
    **{f"group{n}": f"block{n}_pool" for n in range(1, 6)},
    "classifier": "predictions",
}


def _torch(*positions: int, classifier: str) -> dict[str, str]:
    """Modules by stage: torchvision keeps convolutions, ReLUs and poolings in one list."""
    groups = {f"group{n}": f"features.{position}" for n, position in enumerate(positions, start=1)}
    return {"stem": "features.1", **groups, "classifier": classifier}


_POSITIONS = {"vgg16": (4, 9, 16, 23, 30), "vgg19": (4, 9, 18, 27, 36)}

CASES = [
    Case(architecture="vgg16", variant="keras", reference="keras:VGG16", stages=_KERAS),
    Case(architecture="vgg19", variant="keras", reference="keras:VGG19", stages=_KERAS),
    *(
        Case(
            architecture=name,
            variant="torchvision",
            reference=f"{publisher}:{name}",
            stages=_torch(*positions, classifier=classifier),
        )
        for publisher, classifier in (("torchvision", "classifier.6"), ("timm", "head.fc"))
        for name, positions in _POSITIONS.items()
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reference)
def test_a_vgg_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
