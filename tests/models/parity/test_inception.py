"""The Inception networks equal those of Keras Applications, torchvision and timm, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse import models
from glimpse.models import weights
from glimpse.models.catalogue import find
from tests.models.parity.reference import Case, check, torch_publisher

# Neither library may initialise its weights itself: both take minutes to draw them, and warn that they will not.
_UNINITIALISED = {"init_weights": False}

CASES = [
    Case(
        architecture="googlenet",
        variant="torchvision",
        reference="torchvision:googlenet",
        arguments={**_UNINITIALISED, "transform_input": False},
        stages={
            "stem": "maxpool2",
            "group1": "inception3b",
            "group2": "inception4a",
            "group3": "inception4d",
            "group4": "inception4e",
            "group5": "inception5b",
            "classifier": "fc",
        },
    ),
    Case(
        architecture="inception_v3",
        variant="keras",
        reference="keras:InceptionV3",
        stages={
            "group1": "mixed2",
            "reduction1": "mixed3",
            "group2": "mixed7",
            "reduction2": "mixed8",
            "group3": "mixed10",
            "classifier": "predictions",
        },
    ),
    Case(
        architecture="inception_v3",
        variant="torchvision",
        reference="torchvision:inception_v3",
        arguments={**_UNINITIALISED, "transform_input": False},
        stages={
            "stem": "maxpool2",
            "group1": "Mixed_5d",
            "reduction1": "Mixed_6a",
            "group2": "Mixed_6e",
            "reduction2": "Mixed_7a",
            "group3": "Mixed_7c",
            "classifier": "fc",
        },
    ),
    Case(
        architecture="inception_v4",
        variant="timm",
        reference="timm:inception_v4",
        stages={
            "stem": "features.5",
            "group1": "features.9",
            "reduction1": "features.10",
            "group2": "features.17",
            "reduction2": "features.18",
            "group3": "features.21",
            "classifier": "last_linear",
        },
    ),
    Case(
        architecture="inception_resnet_v2",
        variant="keras",
        reference="keras:InceptionResNetV2",
        stages={
            "stem": "mixed_5b",
            "group1": "block35_10_ac",
            "reduction1": "mixed_6a",
            "group2": "block17_20_ac",
            "reduction2": "mixed_7a",
            "group4": "conv_7b_ac",
            "classifier": "predictions",
        },
    ),
    Case(
        architecture="inception_resnet_v2",
        variant="timm",
        reference="timm:inception_resnet_v2",
        stages={
            "stem": "mixed_5b",
            "group1": "repeat",
            "reduction1": "mixed_6a",
            "group2": "repeat_1",
            "reduction2": "mixed_7a",
            "group3": "block8",
            "group4": "conv2d_7b",
            "classifier": "classif",
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_inception_network_equals_its_reference(case: Case, tmp_path: Path) -> None:
    # Keras numbers the layers of its own network on from those that the process has built before.
    keras.utils.clear_session()
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "branches"),
    [("googlenet", {"aux1": "inception4a", "aux2": "inception4d"}), ("inception_v3", {"AuxLogits": "Mixed_6e"})],
)
def test_the_auxiliary_classifiers_equal_torchvisions(name: str, branches: dict[str, str], tmp_path: Path) -> None:
    package = torch_publisher("torchvision")
    import torch

    torch.manual_seed(0)
    reference = getattr(package, name)(weights=None, init_weights=False, aux_logits=True, transform_input=False).eval()
    expected: dict[str, Any] = {}
    for side, module in branches.items():
        # Only training looks at them there; here they see the same maps, with the statistics of serving.
        def hook(_module: Any, _inputs: Any, maps: Any, side: str = side) -> None:
            expected[side] = reference.get_submodule(side)(maps)

        reference.get_submodule(module).register_forward_hook(hook)
    row = find(name, "torchvision", {"auxiliary": True})
    model = models.build(name, variant="torchvision", auxiliary=True)
    pixels = np.random.default_rng(1).standard_normal((1, *model.input_shape[1:]), np.float32)
    with torch.inference_mode():
        for tensor in (*reference.parameters(), *reference.buffers()):
            if tensor.ndim == 1:  # of the normalisations, and the biases
                tensor.uniform_(0.5, 1.5)
        expected["main"] = reference(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    torch.save(reference.state_dict(), tmp_path / "reference.pth")

    weights.load(model, tmp_path / "reference.pth", row.layouts())
    logits = model(pixels, training=False)

    assert len(logits) == 1 + len(branches)
    for ours, side in zip(logits, ["main", *branches], strict=True):
        theirs = expected[side].numpy()
        difference = np.abs(keras.ops.convert_to_numpy(ours) - theirs).max()
        assert difference < 1e-4 * np.abs(theirs).max(), f"{side}: {difference}"
