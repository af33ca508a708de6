"""Keras' files, in all their layouts: every variable comes out by its layer and role."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from glimpse import models
from glimpse.models import weights
from glimpse.models.weights import WeightsError, read
from glimpse.models.weights.archive import Archive
from tests.models.weight_makers import equal


@pytest.fixture
def network() -> keras.Model:
    """Every kind of layer that holds weights in the library, one of them in a model within the model."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem_conv")(image)
    x = keras.layers.BatchNormalization(scale=False, name="stem_bn")(x)
    x = keras.layers.Dropout(0.5)(x)
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            keras.layers.DepthwiseConv2D(3, name="depth"),
            keras.layers.BatchNormalization(name="n"),
        ],
        name="inner",
    )
    x = keras.layers.SeparableConv2D(5, 3, use_bias=False, name="separable")(inner(x))
    x = keras.layers.Conv2D(4, 1, use_bias=False, name="last")(keras.layers.LayerNormalization(name="layer_norm")(x))
    model = keras.Model(image, keras.layers.Dense(3, name="top")(keras.layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=value.shape).astype(np.float32) for value in model.get_weights()])
    return model


def named(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """What `read` should find: the variables by their layer and role."""
    return {
        "/".join(variable.path.split("/")[-2:]): np.asarray(keras.ops.convert_to_numpy(variable))
        for variable in model.weights
    }


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
# Keras writes its older format with a warning that it is one.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_of_keras_gives_every_variable_by_layer_and_role(
    network: keras.Model, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    (network.save_weights if suffix == ".weights.h5" else network.save)(path)
    equal(read(path), named(network))


def test_the_state_of_training_is_left_out(network: keras.Model, tmp_path: Path) -> None:
    network.compile("adam", "mse", metrics=["mae"])
    network.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 3)), verbose=0)
    network.save(tmp_path / "trained.keras")
    equal(read(tmp_path / "trained.keras"), named(network))


def test_an_archive_is_read_without_beginning_again_for_every_place_in_it(network: keras.Model, tmp_path: Path) -> None:
    """zipfile goes back to a place by reading all that is before it, which made large files take minutes."""
    network.save(tmp_path / "model.keras")
    asked = 0

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            nonlocal asked
            count = super().readinto(buffer)
            asked += count
            return count

    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.writestr("padding", bytes(8 << 20))
    with Counting(tmp_path / "model.keras") as raw:
        archive_ = Archive(io.BufferedReader(raw), tmp_path / "model.keras")
        member = archive_.open("padding")
        for _ in range(20):
            member.seek(-512, io.SEEK_END)
            assert member.read() == bytes(512)
            member.seek(0)
            assert member.read(512) == bytes(512)
    assert asked < 2 << 20


def test_a_network_of_the_library_gets_its_weights_back_from_keras_own_file(tmp_path: Path) -> None:
    first, second = (models.build("se_resnet20", input_shape=(8, 8, 3)) for _ in range(2))
    first.save(tmp_path / "model.keras")
    assert weights.load(second, tmp_path / "model.keras") == "glimpse"
    equal(named(second), named(first))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_a_file_adds_to_the_variance_counts(suffix: str, tmp_path: Path) -> None:
    """Keras' default is a hundred times that of most publishers: with another one, answers are other ones."""
    first, second = (models.build("se_resnet20", input_shape=(8, 8, 3)) for _ in range(2))
    norms = [layer for layer in first.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.02, np.float32))
        layer.epsilon = 0.1
    first.save(tmp_path / f"model{suffix}")
    told: list[str] = []
    assert weights.load(second, tmp_path / f"model{suffix}", say=told.append) == "glimpse"
    x = np.random.default_rng(0).normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(second(x)), np.asarray(first(x)), rtol=1e-4, atol=1e-5)
    (note,) = told
    assert note.startswith("the batch normalisations in the file add 0.1 to the variance, and those of the network ")


def without_names(path: Path) -> None:
    """As Keras wrote it before it kept the names of layers beside their variables."""
    import h5py

    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)


def test_an_older_keras_file_takes_names_from_its_graph(network: keras.Model, tmp_path: Path) -> None:
    network.save(tmp_path / "new.keras")
    folder = tmp_path / "parts"
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        archive.extractall(folder)
    without_names(folder / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    equal(read(tmp_path / "old.keras"), named(network))


def test_weights_without_names_of_layers_are_refused_with_what_to_do(network: keras.Model, tmp_path: Path) -> None:
    network.save_weights(tmp_path / "w.weights.h5")
    without_names(tmp_path / "w.weights.h5")
    with pytest.raises(WeightsError, match=r"by their class only \(batch_normalization\).*model\.save"):
        read(tmp_path / "w.weights.h5")


def test_the_names_of_older_kerases_are_told_by_role(tmp_path: Path) -> None:
    import h5py

    written = {
        "block1_conv1": ["block1_conv1_W_1:0", "block1_conv1_b_1:0"],  # Keras 1, in the published VGG
        "conv1": ["conv1_2/kernel:0", "conv1_2/bias:0"],  # built twice
        "bn": ["bn/gamma:0", "bn/beta:0", "bn/moving_mean:0", "bn/moving_variance:0"],
        "old_bn": ["old_bn_gamma:0", "old_bn_beta:0", "old_bn_running_mean:0", "old_bn_running_std:0"],
        "conv2/x": ["conv2/x/kernel:0"],  # a slash in the layer's name
        "inner": ["a/kernel:0", "b/kernel:0"],  # a model within the model
    }
    with h5py.File(tmp_path / "w.h5", "w") as file:
        # A list too long for one attribute is spread over several.
        for number, layer in enumerate(written):
            file.attrs[f"layer_names{number}"] = np.array([layer.encode()])
        for layer, names in written.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in names])
            for value, name in enumerate(names):
                group[name] = np.full(3, value, np.float32)
    found = {name: value[0] for name, value in read(tmp_path / "w.h5").items()}
    expected: dict[str, float] = {"block1_conv1/kernel": 0, "block1_conv1/bias": 1, "conv1/kernel": 0, "conv1/bias": 1}
    expected |= {"conv2/x/kernel": 0, "a/kernel": 0, "b/kernel": 1}
    for layer in ("bn", "old_bn"):
        roles = ("gamma", "beta", "moving_mean", "moving_variance")
        expected |= {f"{layer}/{role}": number for number, role in enumerate(roles)}
    assert found == expected
