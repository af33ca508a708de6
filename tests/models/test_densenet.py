"""DenseNet: what its block keeps, and what the handbook's code would build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse.models.blocks.dense_block import dense_layer, transition
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.families import creation
from glimpse.models.families.densenet import DenseNet

FACTS = Path(__file__).parents[3] / "shared/facts/architectures.json"


@pytest.mark.parametrize("preactivation", [True, False])
def test_a_dense_layer_keeps_the_maps_before_it_and_adds_its_own_behind_them(*, preactivation: bool) -> None:
    x = keras.Input((5, 4, 6))
    model = keras.Model(x, dense_layer(x, 3, preactivation=preactivation, name="d"))
    pixels = np.random.default_rng(0).normal(0, 1, (2, 5, 4, 6)).astype(np.float32)
    out = keras.ops.convert_to_numpy(model(pixels))
    assert out.shape == (2, 5, 4, 9)
    np.testing.assert_array_equal(out[..., :6], pixels)
    assert np.abs(out[..., 6:]).max() > 0
    assert model.get_layer("d_a_conv").filters == 12  # the bottleneck


@pytest.mark.parametrize(("preactivation", "channels"), [(True, 7), (False, 5)])
def test_batch_norm_stands_before_a_convolution_or_behind_it(*, preactivation: bool, channels: int) -> None:
    x = keras.Input((4, 4, 7))
    model = keras.Model(x, transition(x, compression=0.75, preactivation=preactivation, name="t"))
    assert model.output_shape == (None, 2, 2, 5)
    assert model.get_layer("t_bn").gamma.shape == (channels,)


@pytest.mark.skipif(not FACTS.is_file(), reason=f"the traces are in {FACTS}, which is not there")
def test_every_resolution_ends_with_the_channels_the_handbooks_code_has_there() -> None:
    traced = json.loads(FACTS.read_text())["seed"]["handbook_densenet121"]["spatial_stages_hwc_last"]
    last: dict[tuple[int, int], list[int]] = {}
    for layer in assemble(find("densenet121", "handbook")).model.layers:
        if len(layer.output.shape) == 4:
            _, *shape = layer.output.shape
            last[shape[0], shape[1]] = shape
    assert list(last.values()) == traced


def test_the_handbooks_code_as_printed_would_give_the_last_group_24_layers() -> None:
    row = find("densenet121", "handbook")
    assert isinstance(row, DenseNet)
    assert assemble(replace(row, depths=(6, 12, 24, 24))).model.count_params() == 9_666_984


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("keras", ("conv1_conv", "conv2_block6_0_bn", "conv5_block1_2_conv", "pool4_bn", "bn", "predictions")),
        ("keras_2018", ("conv1/conv", "conv2_block6_0_bn", "conv5_block1_2_conv", "pool4_bn", "bn", "fc1000")),
        (
            "torchvision",
            (
                "features.conv0",
                "features.denseblock1.denselayer6.norm1",
                "features.denseblock4.denselayer1.conv2",
                "features.transition3.norm",
                "features.norm5",
                "classifier",
            ),
        ),
        (
            "torchvision_2017",
            (
                "features.conv0",
                "features.denseblock1.denselayer6.norm.1",
                "features.denseblock4.denselayer1.conv.2",
                "features.transition3.norm",
                "features.norm5",
                "classifier",
            ),
        ),
    ],
)
def test_publishers_call_the_same_layers_by_their_own_names(layout: str, names: tuple[str, ...]) -> None:
    ours = (
        "stem_conv",
        "group1_layer6_a_bn",
        "group4_layer1_b_conv",
        "transition3_bn",
        "classifier_bn",
        "classifier_logits",
    )
    rename = find("densenet121").layouts()[layout].rename
    assert tuple(map(rename, ours)) == names


def test_published_names_are_not_offered_to_the_handbooks_network() -> None:
    assert set(find("densenet121", "handbook").layouts()) == {creation.NAME}
