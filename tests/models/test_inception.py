"""Inception modules, stems and networks: what the papers and the handbook count, and what the options change."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from glimpse import models
from glimpse.models import inception_spec
from glimpse.models.blocks.inception import chain, inception
from glimpse.models.blocks.pooling import average_pool
from glimpse.models.builder import Assembly, assemble, trainable_parameters
from glimpse.models.catalogue import find
from glimpse.models.spec import Convention

# As the handbook's listings: biases, no normalisation.
HANDBOOK = Convention(batch_norm=False)


def module(table: inception_spec.Parallel, *, se_ratio: int | None = None) -> keras.Model:
    x = keras.Input((28, 28, 256))
    return keras.Model(x, inception(x, table, se_ratio=se_ratio, convention=HANDBOOK, name="group1"))


def stem(table: inception_spec.Chain, side: int) -> keras.Model:
    x = keras.Input((side, side, 3))
    return keras.Model(x, chain(x, table, convention=HANDBOOK, name="stem"))


def shapes(assembly: Assembly) -> dict[str, tuple[int, ...]]:
    return {stage.name: stage.output_shape for stage in assembly.stages}


@pytest.mark.parametrize(
    ("table", "parameters", "channels"),
    [(inception_spec.naive(), 544_976, 464), (inception_spec.v1(), 198_032, 272), (inception_spec.v2(), 169_664, 272)],
    ids=["naive", "v1", "v2"],
)
def test_a_module_has_the_parameters_that_the_handbook_prints(
    table: inception_spec.Parallel, parameters: int, channels: int
) -> None:
    model = module(table)

    assert model.count_params() == parameters
    assert model.output_shape == (None, 28, 28, channels)


def test_a_module_s_se_block_has_a_sixteenth_of_its_channels_as_hidden_units() -> None:
    model = module(inception_spec.v1(), se_ratio=16)

    assert model.get_layer("group1_se_reduce").units == 17
    assert model.count_params() == 207_569
    assert model.output_shape == (None, 28, 28, 272)


@pytest.mark.parametrize(("side", "positions"), [(229, 29), (299, 38)])
@pytest.mark.parametrize(
    ("table", "parameters", "channels"),
    [
        (inception_spec.HANDBOOK_V3_STEM, 614_896, 256),
        (inception_spec.HANDBOOK_V4_STEM, 604_864, 384),
        (inception_spec.HANDBOOK_V4_STEM_AS_CODED, 426_400, 352),
    ],
    ids=["v3", "v4", "v4 as coded"],
)
def test_a_stem_has_the_parameters_that_the_handbook_describes(
    table: inception_spec.Chain, parameters: int, channels: int, side: int, positions: int
) -> None:
    model = stem(table, side)

    assert model.count_params() == parameters
    assert model.output_shape == (None, positions, positions, channels)


def test_branches_are_concatenated_in_the_order_of_their_table() -> None:
    x = keras.Input((8, 8, 2))
    table: inception_spec.Parallel = {"input": (), "pool": (inception_spec.Pool("max"),)}
    model = keras.Model(x, inception(x, table, name="group1"))
    maps = np.random.default_rng(0).random((1, 8, 8, 2), np.float32)

    output = keras.ops.convert_to_numpy(model(maps))

    np.testing.assert_array_equal(output[..., :2], maps)
    assert (output[..., 2:] >= maps).all()
    assert output[0, 4, 4, 3] == maps[0, 3:6, 3:6, 1].max()


@pytest.mark.parametrize(("border", "corner"), [("same", 1.0), ("symmetric", 4 / 9)])
def test_the_border_of_an_average_pool_counts_only_where_it_is_symmetric(border: str, corner: float) -> None:
    x = keras.Input((5, 5, 1))
    table: inception_spec.Chain = (inception_spec.Pool("average"),)
    model = keras.Model(x, chain(x, table, average=border, name="stem"))  # type: ignore[arg-type]

    output = keras.ops.convert_to_numpy(model(np.ones((1, 5, 5, 1), np.float32)))

    np.testing.assert_allclose(output[0, :, :, 0][[0, 0, -1, 2], [0, -1, -1, 2]], [corner, corner, corner, 1.0])


def test_an_average_pool_without_a_meaning_for_its_border_is_refused() -> None:
    with pytest.raises(ValueError, match=r"valid, same or symmetric\. Received: 'ceil'"):
        average_pool(keras.Input((5, 5, 1)), size=3, stride=2, border="ceil", name="pool")


# As the papers' authors counted: the Caffe model of GoogLeNet, with and without its auxiliary classifiers.
@pytest.mark.parametrize(("auxiliary", "parameters"), [(False, 6_998_552), (True, 13_378_280)])
def test_googlenet_as_in_its_paper_has_the_parameters_of_the_published_network(
    auxiliary: bool,  # noqa: FBT001
    parameters: int,
) -> None:
    assert models.build("googlenet", variant="paper", auxiliary=auxiliary).count_params() == parameters


def test_bn_inception_has_the_parameters_that_tensorflow_slim_counts() -> None:
    model = models.build("inception_v2")

    classifier = 1024 * 1000 + 1000
    channels = (model.count_params() - trainable_parameters(model)) // 2  # a moving mean and a moving variance each
    # TensorFlow-Slim's normalisations do not scale, and behind the first layer it has a bias in place of one.
    assert model.count_params() - classifier - channels - 2 * 64 == 10_173_112


def test_the_stages_of_googlenet_have_the_shapes_of_its_papers_table() -> None:
    stages = shapes(assemble(find("googlenet", None, {"auxiliary": True})))

    assert stages == {
        "stem": (28, 28, 192),
        "group1": (28, 28, 480),
        "group2": (14, 14, 512),
        "auxiliary1": (1000,),
        "group3": (14, 14, 528),
        "auxiliary2": (1000,),
        "group4": (14, 14, 832),
        "group5": (7, 7, 1024),
        "classifier": (1000,),
    }


def test_the_stages_of_inception_v2_have_the_shapes_of_its_papers_table() -> None:
    assert shapes(assemble(find("inception_v2"))) == {
        "stem": (28, 28, 192),
        "group1": (14, 14, 576),
        "group2": (7, 7, 1024),
        "group3": (7, 7, 1024),
        "classifier": (1000,),
    }


def test_auxiliary_classifiers_answer_after_the_main_one_and_survive_reloading(tmp_path: Path) -> None:
    """The auxiliary classifiers answer after the main one, and survive a reload in Keras' safe mode."""
    model = models.build("googlenet", classes=5, input_shape=(64, 64, 3), auxiliary=True)
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)

    reloaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)

    answers = [keras.ops.convert_to_numpy(logits) for logits in model(pixels)]
    assert [logits.shape for logits in answers] == [(2, 5)] * 3
    assert model.output_names[0].startswith("classifier")
    for logits, again in zip(answers, reloaded(pixels), strict=True):
        np.testing.assert_allclose(logits, keras.ops.convert_to_numpy(again), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "modules"),
    [
        ("googlenet", 64, 9),
        ("inception_v2", 64, 10),
        pytest.param("inception_v3", 75, 11, marks=pytest.mark.slow),
        pytest.param("inception_v4", 75, 16, marks=pytest.mark.slow),
    ],
)
def test_an_se_block_can_recalibrate_every_module_of_every_inception_network(
    name: str, side: int, modules: int
) -> None:
    model = models.build(name, classes=5, input_shape=(side, side, 3), se_ratio=16)

    blocks = [layer.name for layer in model.layers if layer.name.endswith("_se_scale")]
    concatenations = [layer.name for layer in model.layers if re.fullmatch(r".+_block\d_concat", layer.name)]
    assert len(blocks) == modules == len(concatenations)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("inception_v3", {}, 614_896),
        ("inception_v4", {}, 604_864),
        ("inception_v4", {"stem": "handbook_as_coded"}, 426_400),
    ],
)
def test_the_handbooks_stem_starts_the_papers_network(name: str, options: dict[str, str], parameters: int) -> None:
    assembly = assemble(find(name, "handbook", options), input_shape=(229, 229, 3))

    assert assembly.stages[0].parameters == parameters
    assert assembly.stages[0].output_shape[:2] == (29, 29)


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4"])
def test_a_stem_that_nobody_described_is_refused_with_those_that_were(name: str) -> None:
    with pytest.raises(ValueError, match=r"paper.*handbook.* Received: 'handbok'"):
        models.build(name, stem="handbok")


def test_keras_numbers_of_inception_v3_are_mapped_by_role() -> None:
    row = find("inception_v3", "keras")
    layouts = row.layouts()
    weighted = [layer.name for layer in models.build("inception_v3", variant="keras").layers if layer.weights]

    published = [layouts["keras"].rename(name) for name in weighted]
    fresh = [layouts["keras3"].rename(name) for name in weighted]

    numbers = range(1, 95)
    assert sorted(published) == sorted(
        [f"conv2d_{n}" for n in numbers] + [f"batch_normalization_{n}" for n in numbers] + ["predictions"]
    )
    for first, second in zip(published, fresh, strict=True):
        layer, _, number = first.rpartition("_")
        assert second == (first if not number.isdigit() else layer if number == "1" else f"{layer}_{int(number) - 1}")
    # Where Keras Applications' code creates them: the first module's 1x1, a factor of a 7x7, the last projection.
    rename = layouts["keras"].rename
    assert rename("group1_block1_1x1_conv") == "conv2d_6"
    assert rename("group2_block2_double7x7_3_bn") == "batch_normalization_47"
    assert rename("group3_block2_pool_2_conv") == "conv2d_94"
