"""What lies beside a graph and in its metadata: labels, and configurations of Hugging Face and timm."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimpse.models import heads
from glimpse.models.bundle import BundleError
from glimpse.models.foreign import GraphError, configs
from glimpse.models.foreign.names import labels_of
from glimpse.models.labels import ClassLabel
from tests.models.graph_makers import NAMES, details, found, labels, onnx_model, saved


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog", "cow", "hen"]',
        '{"0": "cat", "1": "dog", "2": "cow", "3": "hen"}',
        "{0: 'cat', 1: \"dog\", 2: 'cow', 3: 'hen'}",
        "['cat', 'dog', 'cow', 'hen',]",
        "cat\ndog\ncow\nhen\n",
        "cat,dog, cow ,hen",
    ],
)
@pytest.mark.parametrize("key", ["labels", "names", "Classes"])
def test_labels_in_the_metadata_of_onnx_are_read_in_any_form(key: str, text: str, tmp_path: Path) -> None:
    assert labels(saved(onnx_model(metadata={key: text}), tmp_path, labels=None)) == NAMES


@pytest.mark.parametrize(
    "text", ["{0: 'cat', 2: 'dog'}", "{0: cat}", "[1, 2]", "[[]]", "['a', 'b", "{" * 5000, "[-" * 5000]
)
def test_labels_in_metadata_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="has labels in its metadata"):
        found(saved(onnx_model(metadata={"names": text}), tmp_path, labels=None))


VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

CENTRE = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}

CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875}

EFFICIENTNET = {
    "image_processor_type": "EfficientNetImageProcessor",
    "include_top": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.47853944, 0.4732864, 0.47434163],  # the roots of what it is trained with
    "rescale_offset": False,
}
# As it is published, with neither a mean nor a std.
MOBILEVIT = {
    "feature_extractor_type": "MobileViTFeatureExtractor",
    "do_center_crop": True,
    "do_flip_channel_order": True,
    "do_resize": True,
    "resample": 2,
}
POOLFORMER = {
    "image_processor_type": "PoolFormerImageProcessor",
    **CENTRE,
    "size": {"shortest_edge": 224},
    "crop_pct": 0.95,
}


def test_a_problem_of_several_labels_is_no_softmax(tmp_path: Path) -> None:
    path = saved(onnx_model(end=""), tmp_path)
    assert found(path).head == heads.SOFTMAX
    config = {"problem_type": "multi_label_classification", "id2label": dict(enumerate(NAMES))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert found(path).head == heads.multi_label(len(NAMES))
    elsewhere = tmp_path / "elsewhere" / "recipe.toml"
    elsewhere.parent.mkdir()
    recipe = (tmp_path / "recipe.toml").read_text()
    elsewhere.write_text(recipe)
    assert found(path, recipe=elsewhere).head == heads.multi_label(len(NAMES))
    # What is stated in a recipe counts more.
    elsewhere.write_text(recipe + 'head = "softmax"\n')
    assert found(path, recipe=elsewhere).head == heads.SOFTMAX
    (tmp_path / "recipe.toml").write_text(recipe + 'head = "multi-label"\nthresholds = 0.25\n')
    assert found(path).head == heads.multi_label(len(NAMES), 0.25)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(VIT, {"geometry": "squash", "mean": [127.5] * 3, "std": [127.5] * 3}, id="both sides"),
        pytest.param({**VIT, "size": 224}, {"geometry": "squash", "height": 224, "width": 224}, id="an older version"),
        pytest.param({**VIT, **CENTRE}, {"geometry": "crop", "crop_share": 0.875}, id="the centre"),
        pytest.param({**VIT, **CONVNEXT}, {"geometry": "crop", "crop_share": 0.875}, id="a share of its own"),
        pytest.param({**VIT, **IMAGENET}, {"mean": [123.675, 116.28, 103.53]}, id="other means"),
        pytest.param({**VIT, "do_normalize": False}, {"mean": [0.0] * 3, "std": [255.0] * 3}, id="not normalised"),
        pytest.param({**VIT, "do_rescale": False}, {"mean": [0.5] * 3, "std": [0.5] * 3}, id="not rescaled"),
        pytest.param({**VIT, "resample": 3}, {"filter": "bicubic"}, id="another filter"),
        # These processors do more than their values say.
        pytest.param(
            {**VIT, **EFFICIENTNET},
            {"geometry": "squash", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
            id="EfficientNet divides twice",
        ),
        pytest.param(
            {**VIT, **EFFICIENTNET, "include_top": False},
            {"std": [122.0275597, 120.6880335, 120.95711935]},
            id="EfficientNet as features",
        ),
        pytest.param(
            {**MOBILEVIT, "crop_size": 224, "size": 252},
            {"geometry": "crop", "crop_share": 224 / 252, "channels": "BGR", "mean": [0.0] * 3, "std": [255.0] * 3},
            id="MobileViT flips and does not normalise",
        ),
        pytest.param({**VIT, **POOLFORMER}, {"geometry": "crop", "crop_share": 224 / 235}, id="PoolFormer enlarges"),
        pytest.param(
            {**VIT, **CENTRE, "image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}},
            {"geometry": "crop", "crop_share": 0.875},
            id="LeViT enlarges",
        ),
        pytest.param(
            {**VIT, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
            {"mean": [127.5] * 3, "std": [127.5] * 3},
            id="an offset",
        ),
    ],
)
def test_an_image_processor_of_hugging_face_gives_a_recipe(
    values: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    recipe = configs.recipe(tmp_path)
    numbers = {name: recipe.pop(name) for name in ("mean", "std") if name in expected}
    assert numbers == {name: pytest.approx(expected[name], rel=1e-6) for name in numbers}
    assert {name: recipe[name] for name in expected if name not in numbers} == {
        name: value for name, value in expected.items() if name not in numbers
    }
    assert (recipe["height"], recipe["width"], recipe["smaller"]) == (224, 224, "resize")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**VIT, "do_center_crop": True, "crop_size": 200}, "resizes both sides, and then crops"),
        ({**VIT, "resample": 5}, "resizes with the filter 5"),
        ({**VIT, "rescale_offset": True}, "subtracts an offset from pixels that are multiplied by 0.00392157"),
        ({**VIT, **IMAGENET, "do_flip_channel_order": True}, "flips the order of channels that are scaled differently"),
        ({**VIT, "size": {"longest_edge": 224}}, "has the size"),
        ({**VIT, "size": "large"}, "a size in pixels is expected"),
        ({**VIT, "image_mean": [0.5] * 2}, "a mean and a std for each channel"),
    ],
)
def test_a_configuration_that_no_recipe_can_say_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(onnx_model(), tmp_path, recipe=None)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(GraphError, match=message):
        found(path)
    details(tmp_path)  # and a recipe of one's own comes before it
    assert found(path).recipe.mean == (127.5,) * 3


def test_the_labels_of_hugging_face_are_those_of_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat, pussy"}}))
    assert configs.labels(tmp_path) == (ClassLabel("cat", "", ("pussy",)), ClassLabel("dog"))


def test_a_repository_of_hugging_face_has_what_belongs_to_a_graph_above_it(tmp_path: Path) -> None:
    path = saved(onnx_model(size=None), tmp_path / "onnx", labels=None, recipe=None)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**VIT, "size": {"height": 20, "width": 24}}))
    assert labels(path) == NAMES
    assert found(path).recipe.shape == (20, 24, 3)


TIMM = {
    "architecture": "efficientnet_b0",
    "num_classes": 1000,
    "pretrained_cfg": {
        "tag": "ra_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}


def test_a_configuration_of_timm_gives_recipe_and_labels(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    recipe = configs.recipe(tmp_path)
    assert recipe["crop_share"] == 224 / 248, "timm rounds 224 / 0.9 down"
    assert (recipe["filter"], recipe["mean"]) == ("bicubic", [123.675, 116.28, 103.53])
    assert configs.labels(tmp_path)[:2] == (
        ClassLabel("tench", "n01440764", ("Tinca tinca",)),
        ClassLabel("goldfish", "n01443537", ("Carassius auratus",)),
    )
    own = {
        **TIMM,
        "num_classes": 2,
        "label_names": ["n1", "n2"],
        "label_descriptions": {"n1": "cat, puss", "n2": "dog"},
    }
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert configs.labels(tmp_path) == (ClassLabel("cat", "n1", ("puss",)), ClassLabel("dog", "n2"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
@settings(max_examples=40)
def test_whatever_metadata_hold_is_labels_or_refused(values: Any) -> None:
    with contextlib.suppress(ValueError, BundleError):
        assert all(each.label for each in labels_of(values))


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_configurations_hold_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    plain = st.none() | st.booleans() | st.integers(-9, 999) | st.floats(allow_nan=False) | st.text(max_size=5)
    values: Any = st.recursive(plain, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x))
    base: Mapping[str, Any] = data.draw(st.sampled_from([VIT, {**VIT, **CENTRE}, TIMM["pretrained_cfg"]]))
    changed = {**base, data.draw(st.sampled_from(sorted(base))): data.draw(values)}
    whole = changed if "tag" not in base else {**TIMM, "pretrained_cfg": changed}
    name = "config.json" if "tag" in base else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(whole))
    try:
        configs.recipe(tmp_path)
        configs.labels(tmp_path)
    except GraphError:
        pass
