"""Every architecture of the library, one battery for all."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import models
from models.architectures.resnet import ROWS, ResNet
from models.builder import assemble, trainable_parameters
from models.catalogue import UnknownArchitectureError, find

EVERY = [(name, variant) for name, variants in models.architectures().items() for variant in variants]
# (all, trainable). By hand: se_resnet20 has 3 * (82 + 292 + 1096) = 4410 more, the dense layers of its nine units.
PARAMETERS = {("resnet20", "cifar"): (274_042, 272_474), ("se_resnet20", "cifar"): (278_452, 276_884)}


@pytest.fixture(params=EVERY, ids=["-".join(pair) for pair in EVERY])
def architecture(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, variant = request.param
    return name, variant


def test_every_architecture_has_the_parameters_that_were_counted_for_it(architecture: tuple[str, str]) -> None:
    model = models.build(architecture[0], variant=architecture[1])
    assert (model.count_params(), trainable_parameters(model)) == PARAMETERS[architecture]


def test_stages_add_up_to_the_model(architecture: tuple[str, str]) -> None:
    assembly = assemble(find(*architecture))
    assert sum(stage.parameters for stage in assembly.stages) == assembly.model.count_params()
    assert assembly.stages[0].name == "stem"
    assert assembly.stages[-1].name == "classifier"
    assert assembly.stages[-1].output_shape == (find(*architecture).classes,)


def test_every_architecture_takes_other_classes_and_sizes(architecture: tuple[str, str]) -> None:
    model = models.build(architecture[0], variant=architecture[1], classes=7, input_shape=(48, 40, 3))
    assert model.input_shape == (None, 48, 40, 3)
    assert model.output_shape == (None, 7)


def test_every_model_comes_back_from_a_file_in_safe_mode(architecture: tuple[str, str], tmp_path: Path) -> None:
    model = models.build(architecture[0], variant=architecture[1])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.random.default_rng(0).normal(0, 1, (2, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(again(x)))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_depth_in_a_name_is_the_depth_of_its_row(row: ResNet) -> None:
    depth = re.search(r"\d+$", row.name)
    assert depth is not None
    assert row.layers == int(depth[0])


def test_se_resnet20_is_described_as_a_stem_three_groups_and_a_classifier() -> None:
    stages = assemble(find("se_resnet20")).stages
    assert [(s.name, s.block, s.repeats, s.output_shape) for s in stages] == [
        ("stem", "conv3x3", 1, (32, 32, 16)),
        ("group1", "se_basic", 3, (32, 32, 16)),
        ("group2", "se_basic", 3, (16, 16, 32)),
        ("group3", "se_basic", 3, (8, 8, 64)),
        ("classifier", "global_average_pooling+dense", 1, (10,)),
    ]


def test_a_row_whose_groups_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"same groups. Received: depths=\(1, 2\), widths=\(16,\)"):
        ResNet(name="odd", variant="x", paper="", input_shape=(32, 32, 3), classes=10, depths=(1, 2), widths=(16,))


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"Did you mean .*se_resnet20"):
        models.build("se_resnet2")


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"no variant 'imagenet'.*It has: cifar\."):
        models.build("se_resnet20", variant="imagenet")


@pytest.mark.parametrize("classes", [0, -1])
def test_a_model_needs_a_class(classes: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1. Received: {classes}"):
        models.build("se_resnet20", classes=classes)


@pytest.mark.parametrize("shape", [(0, 32, 3), (32, 32)])
def test_a_model_needs_three_positive_sizes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="three positive sizes"):
        models.build("se_resnet20", input_shape=shape)
