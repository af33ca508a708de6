"""DenseNets equal those of Keras Applications and torchvision, stage by stage."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families.densenet import DenseNet
from tests.models.parity.reference import Case, check, torch_publisher

_DEPTHS = {"121": (6, 12, 24, 16), "169": (6, 12, 32, 32), "201": (6, 12, 48, 32)}


def _keras(depths: tuple[int, ...]) -> dict[str, str]:
    groups = {f"group{n}": f"conv{n + 1}_block{depth}_concat" for n, depth in enumerate(depths, start=1)}
    transitions = {f"transition{n}": f"pool{n + 1}_pool" for n in (1, 2, 3)}
    return {"stem": "pool1", **groups, **transitions, "classifier": "predictions"}


_TORCHVISION = {
    "stem": "features.pool0",
    **{f"group{n}": f"features.denseblock{n}" for n in (1, 2, 3, 4)},
    **{f"transition{n}": f"features.transition{n}" for n in (1, 2, 3)},
    "classifier": "classifier",
}

CASES = [
    case
    for size, depths in _DEPTHS.items()
    for case in (
        Case(
            architecture=f"densenet{size}",
            variant="keras",
            reference=f"keras:DenseNet{size}",
            stages=_keras(depths),
        ),
        Case(
            architecture=f"densenet{size}",
            variant="torchvision",
            reference=f"torchvision:densenet{size}",
            stages=_TORCHVISION,
        ),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_densenet_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_files_older_than_torchvisions_code_are_read_too(tmp_path: Path) -> None:
    """The published ones: their names have a dot more than the modules of today."""
    reference = torch_publisher("torchvision").DenseNet(block_config=(2, 3), num_classes=10).eval()
    import torch

    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in reference.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer2.norm.1.running_var" in state
    torch.save(state, tmp_path / "old.pth")

    row = find("densenet121", "torchvision")
    assert isinstance(row, DenseNet)
    model = assemble(replace(row, depths=(2, 3)), classes=10, input_shape=(32, 32, 3)).model
    assert weights.load(model, tmp_path / "old.pth", row.layouts()) == "torchvision_2017"
    pixels = np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    logits = keras.ops.convert_to_numpy(model(pixels, training=False))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
