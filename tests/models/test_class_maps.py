"""Class activation maps: which networks have them, and that they are what the scores are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from skimage import data

from glimpse.models import catalogue, class_maps, map_rows, sources
from glimpse.models.builder import assemble
from glimpse.models.outputs import CLASS_MAPS, FEATURE_MAP, FEATURE_STATISTICS, HIDDEN, LOGITS, PROBABILITIES
from glimpse.models.serving import load_bundle, serving_outputs, without
from glimpse.server.runtime.openvino import OpenVINORuntime, _without
from glimpse.server.runtime.openvino_graphs import convert
from glimpse.server.runtime.openvino_library import core
from glimpse.server.runtime.tensorflow import TensorFlowRuntime, with_values
from tests.variations import mostly_in_ci

layers = keras.layers
PHOTOS = (data.chelsea(), data.coffee(), data.astronaut(), data.rocket())


@pytest.mark.parametrize(
    ("name", "grid"),
    mostly_in_ci(
        [
            ("se_resnet20", (8, 8)),
            ("efficientnet_lite0", (7, 7)),
            ("mobilenet", (7, 7)),
            ("squeezenet1_1", (13, 13)),
            ("densenet121", (7, 7)),
            ("basic_cnn", None),
            ("vgg16", None),
        ],
        ("se_resnet20", (8, 8)),
        ("basic_cnn", None),
    ),
)
def test_networks_with_pooling_and_one_layer_have_maps(name: str, grid: tuple[int, int] | None) -> None:
    assert assemble(catalogue.find(name)).summary.maps == grid


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="both runtimes build on TensorFlow")
@pytest.mark.parametrize("weights", mostly_in_ci(["cifar10", "imagenet"], "cifar10"))
def test_the_mean_of_a_map_is_the_score_of_its_class(weights: str, tmp_path: Path) -> None:
    bundle = sources.resolve(sources.ModelSource(weights=weights))
    assembly = load_bundle(bundle)
    side = bundle.input_shape[0]
    pixels = np.stack([photo[60 : 60 + side, 100 : 100 + side] for photo in PHOTOS])
    whole = serving_outputs(assembly, bundle.recipe, bundle.temperature, whole_maps=True)
    for runtime in (
        OpenVINORuntime(convert(with_values(whole), tmp_path), "float32"),
        TensorFlowRuntime(serving_outputs(assembly, bundle.recipe, bundle.temperature), "float32"),
    ):
        found = runtime(pixels, frozenset({PROBABILITIES, LOGITS, CLASS_MAPS}))
        rows, logits = found[CLASS_MAPS], found[LOGITS]
        assert rows.shape[1:] == map_rows.shape(len(bundle.labels), assembly.summary.maps or (0, 0))
        for image, scores in enumerate(logits):
            classes = rows[image, :, 0].astype(int)
            assert classes.tolist() == np.argsort(-scores, kind="stable")[: map_rows.MOST_MAPS].tolist()
            np.testing.assert_allclose(rows[image, :, 1:].mean(axis=-1), scores[classes], rtol=0, atol=1e-4)
        # Who asks for no maps gets the same, and nothing more.
        plain = runtime(pixels)
        assert plain.keys() == {PROBABILITIES}
        np.testing.assert_allclose(plain[PROBABILITIES], found[PROBABILITIES], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the converter reads TensorFlow's graphs")
def test_who_asks_for_no_maps_computes_what_there_would_be_without(tmp_path: Path) -> None:
    """OpenVINO's compiled network has the same steps and outputs as that of a model without maps and statistics."""
    bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
    assembly = load_bundle(bundle)
    graphs = []
    for name, model in (
        ("never", without(serving_outputs(assembly, bundle.recipe, bundle.temperature), FEATURE_MAP)),
        (
            "maps",
            serving_outputs(
                assembly,
                bundle.recipe,
                bundle.temperature,
                statistics=bundle.statistics_layer,
                whole_maps=True,
            ),
        ),
    ):
        (tmp_path / name).mkdir()
        graphs.append(core().read_model(convert(with_values(model), tmp_path / name)))

    def steps(network: Any) -> Counter[str]:
        compiled = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return Counter(each.get_rt_info()["layerType"].value for each in compiled.get_runtime_model().get_ops())

    never, maps = graphs
    assert steps(_without(maps, HIDDEN)) == steps(never)
    assert steps(maps) != steps(never) != steps(_without(maps, HIDDEN - {FEATURE_STATISTICS}))


def pooled(x: Any) -> Any:
    return layers.GlobalAveragePooling2D()(x)


@pytest.mark.parametrize(
    ("end", "has"),
    [
        pytest.param(lambda x: layers.Dense(5)(layers.Dropout(0.5)(pooled(x))), True, id="dropout"),
        pytest.param(
            lambda x: layers.Dense(5)(layers.Flatten()(layers.AveragePooling2D(4)(x))), True, id="pool of all"
        ),
        pytest.param(
            lambda x: layers.Flatten()(layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))),
            True,
            id="convolution",
        ),
        pytest.param(lambda x: pooled(layers.Conv2D(5, 1, activation="relu")(x)), True, id="maps of classes"),
        pytest.param(
            lambda x: layers.Dense(5)(layers.Flatten()(layers.AveragePooling2D(2)(x))), False, id="pool of a part"
        ),
        pytest.param(lambda x: layers.Dense(5)(layers.Flatten()(x)), False, id="flattened"),
        pytest.param(lambda x: layers.Dense(5)(layers.Dense(7, "relu")(pooled(x))), False, id="hidden layer"),
        pytest.param(lambda x: layers.Dense(5, "relu")(pooled(x)), False, id="activation"),
        pytest.param(lambda x: layers.Dense(5)(layers.LayerNormalization()(pooled(x))), False, id="norm behind"),
        pytest.param(lambda x: layers.Dense(5)(layers.GlobalMaxPooling2D()(x)), False, id="maximum"),
    ],
)
def test_maps_are_found_where_they_are_exact(end: Callable[[Any], Any], has: bool) -> None:  # noqa: FBT001
    pixels = keras.Input((4, 4, 3))
    network = keras.Model(pixels, end(layers.Conv2D(6, 3, padding="same")(pixels)))
    found = class_maps.find(network)
    assert (found is not None) == has
    assert class_maps.grid(network) == ((4, 4) if has else None)
    if found is None:
        return
    both = keras.Model(pixels, [network.output, class_maps.maps(found), found.features])
    noise = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    logits, maps, features = map(np.asarray, both(noise))
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=1e-5)
    rows = class_maps.head(found).rows(features, logits)
    for image in range(2):
        for index in range(5):
            each = map_rows.of_class(rows[image], index, (4, 4))
            assert each is not None
            np.testing.assert_allclose(each, maps[image, ..., index], atol=1e-5)


def test_of_many_classes_the_ten_most_probable_have_maps() -> None:
    logits = np.arange(1000, dtype=np.float32)[np.newaxis]
    maps = np.arange(1000, dtype=np.float32) * np.ones((1, 2, 3, 1), np.float32)
    (rows,) = map_rows.packed(logits, (2, 3), lambda image, classes: maps[image][..., classes])
    assert rows.shape == map_rows.shape(1000, (2, 3)) == (10, 7)
    assert rows[:, 0].tolist() == list(range(999, 989, -1))
    found = map_rows.of_class(rows, 995, (2, 3))
    assert found is not None
    assert found.tolist() == [[995.0] * 3] * 2
    assert map_rows.of_class(rows, 989, (2, 3)) is None


def test_maps_with_too_many_positions_are_none() -> None:
    pixels = keras.Input((33, 32, 3))
    assert class_maps.grid(keras.Model(pixels, layers.Dense(5)(pooled(pixels)))) is None
