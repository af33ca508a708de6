"""Residual networks equal those of Keras Applications, torchvision and timm, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tests.models.parity.reference import Case, check

_KERAS = {"stem": "pool1_pool", "classifier": "predictions"}
_TORCHVISION = {"stem": "maxpool", **{f"group{n}": f"layer{n}" for n in range(1, 5)}, "classifier": "fc"}
_TIMM_LEGACY = {**_TORCHVISION, "stem": "pool0", "classifier": "last_linear"}


def _keras(*depths: int) -> dict[str, str]:
    groups = {f"group{n}": f"conv{n + 1}_block{depth}_out" for n, depth in enumerate(depths, start=1)}
    return {"stem": _KERAS["stem"], **groups, "classifier": _KERAS["classifier"]}


CASES = [
    Case(architecture="resnet50", variant="keras", reference="keras:ResNet50", stages=_keras(3, 4, 6, 3)),
    Case(architecture="resnet101", variant="keras", reference="keras:ResNet101", stages=_keras(3, 4, 23, 3)),
    Case(architecture="resnet152", variant="keras", reference="keras:ResNet152", stages=_keras(3, 8, 36, 3)),
    *(
        Case(architecture=name, variant="torchvision", reference=f"torchvision:{name}", stages=_TORCHVISION)
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    ),
    *(
        Case(
            architecture=f"resnet{layers}_v2",
            variant="keras",
            reference=f"keras:ResNet{layers}V2",
            stages=_keras(*depths),
        )
        for layers, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3)))
    ),
    *(
        Case(
            architecture=f"resnet{layers}_v2",
            variant="paper",
            reference=f"timm:resnetv2_{layers}",
            stages={
                "stem": "stem.pool",
                **{f"group{group}": f"stages.{group - 1}" for group in range(1, 5)},
                "classifier": "head",
            },
        )
        for layers in (50, 101)
    ),
    Case(
        architecture="resnext50",
        variant="torchvision",
        reference="torchvision:resnext50_32x4d",
        stages=_TORCHVISION,
    ),
    *(
        Case(architecture=name, variant="timm", reference=f"timm:{theirs}", stages=stages)
        for name, theirs, stages in (
            ("se_resnet34", "legacy_seresnet34", _TIMM_LEGACY),
            ("se_resnet50", "seresnet50", _TORCHVISION),
            ("se_resnet50_legacy", "legacy_seresnet50", _TIMM_LEGACY),
            ("se_resnext50", "seresnext50_32x4d", _TORCHVISION),
            ("senet154", "legacy_senet154", _TIMM_LEGACY),
        )
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_residual_network_equals_its_reference(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.slow
def test_resnext_equals_the_network_that_keras_applications_publish_weights_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their package no longer has a function for it; this one is added for the time of the test.
    monkeypatch.setattr(keras.applications, "ResNeXt50", _keras_resnext50, raising=False)
    check(
        Case(architecture="resnext50", variant="keras", reference="keras:ResNeXt50", stages=_keras(3, 4, 6, 3)),
        tmp_path,
    )


def _keras_resnext50(**arguments: Any) -> keras.Model:
    """The published layers and names: a grouped convolution is a depthwise one and sums over each group."""
    from keras.src.applications.resnet import ResNet

    def groups(x: keras.KerasTensor) -> keras.KerasTensor:
        for group, (depth, width) in enumerate(zip((3, 4, 6, 3), (128, 256, 512, 1024), strict=True), start=2):
            for unit in range(1, depth + 1):
                stride = 2 if group > 2 and unit == 1 else 1
                x = _keras_resnext_unit(x, width, stride, f"conv{group}_block{unit}")
        return x

    model = ResNet(groups, preact=False, use_bias=False, **arguments)
    for layer in model.layers:
        if layer.name.endswith("_gconv"):
            _, _, inputs, width = layer.kernel.shape
            each = width // 32
            sums = np.zeros((inputs, width), np.float32)
            for channel in range(width):
                for output in range(each):
                    # Input `channel` of the depthwise convolution, its output `output`, goes to that of its group.
                    sums[channel * each + output, channel // each * each + output] = 1
            layer.kernel.assign(sums[None, None])
    return model


def _keras_resnext_unit(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    def normalised(y: keras.KerasTensor, part: int) -> keras.KerasTensor:
        return layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_{part}_bn")(y)

    kept = x
    if x.shape[-1] != 2 * width:
        kept = layers.Conv2D(2 * width, 1, strides=stride, use_bias=False, name=f"{name}_0_conv")(x)
        kept = normalised(kept, 0)
    y = normalised(layers.Conv2D(width, 1, use_bias=False, name=f"{name}_1_conv")(x), 1)
    y = layers.ZeroPadding2D(1, name=f"{name}_2_pad")(layers.ReLU(name=f"{name}_1_relu")(y))
    y = layers.DepthwiseConv2D(3, strides=stride, depth_multiplier=width // 32, use_bias=False, name=f"{name}_2_conv")(
        y
    )
    y = normalised(layers.Conv2D(width, 1, use_bias=False, name=f"{name}_2_gconv")(y), 2)
    y = layers.Conv2D(2 * width, 1, use_bias=False, name=f"{name}_3_conv")(layers.ReLU(name=f"{name}_2_relu")(y))
    y = layers.Add(name=f"{name}_add")([kept, normalised(y, 3)])
    return layers.ReLU(name=f"{name}_out")(y)
