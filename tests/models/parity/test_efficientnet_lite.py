"""EfficientNet-Lite equals timm's, stage by stage, and with its published weights, too."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models import published, weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from tests.models.parity.reference import Case, check, torch_publisher

_STAGES = {
    "stem": "bn1",  # with timm's activation inside
    **{f"group{group}": f"blocks.{group - 1}" for group in range(1, 8)},
    "group8": "bn2",
    "classifier": "classifier",
}

CASES = [
    Case(
        architecture=f"efficientnet_lite{number}",
        variant="tensorflow",
        reference=f"timm:tf_efficientnet_lite{number}",
        stages=_STAGES,
    )
    for number in range(5)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_efficientnet_lite_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_the_installed_weights_answer_as_in_timms_network(number: int) -> None:
    """PyTorch reads the package's file, and timm's network computes with it: the modules of both have one order."""
    timm = torch_publisher("timm")
    import torch

    name = f"efficientnet_lite{number}"
    path = published.fetch(published.find(name))
    theirs = timm.create_model(f"tf_{name}").eval()
    stored = torch.load(path, weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), stored.values(), strict=True)))
    row = find(name)
    assembly = assemble(row)
    assert weights.load(assembly.model, path, row.layouts()) == "efficientnet_pytorch"

    image = np.random.default_rng(0).uniform(-1, 1, (1, *row.input_shape)).astype(np.float32)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
    found = keras.ops.convert_to_numpy(assembly.model(image, training=False))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
