"""What `python -m glimpse.models.train --from BASE` begins with: Keras files and weights files, whole and damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from glimpse.models import bundle, evaluate, weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.train import __main__ as command
from glimpse.models.train.transfer import network
from glimpse.models.train.transfer.base import find_base
from glimpse.models.train.transfer.export import WHOLE
from tests.models.training import transfer_options as options

from .conftest import write_images

Tail = Callable[[keras.KerasTensor], keras.KerasTensor]


def keras_model(path: Path, *, classifier: bool = True, tail: Tail | None = None) -> Path:
    """A small model as a user saves it, with its recipe beside it; `tail` is what ends it in place of a softmax."""
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    if classifier:
        x = keras.layers.Dropout(0.2)(x)
        x = keras.layers.Dense(7, activation="softmax", name="answer")(x) if tail is None else tail(x)
    keras.Model(image, x).save(path)
    (path.parent / "recipe.toml").write_text(
        "height = 8\nwidth = 8\nmean = [127.5, 127.5, 127.5]\nstd = [60, 60, 60]\n"
    )
    return path


@pytest.mark.ci
def test_a_keras_file_is_a_base_and_the_result_a_whole_model(
    patches: Path, test_patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = keras_model(tmp_path / "base.keras")
    out = tmp_path / "run"
    given = options(patches, out, "--from", str(path), "--test", str(test_patches), "--learning-rate", "0.02")
    assert command.main([*given, "--thaw", "1"]) == 0
    made = bundle.read(out / "bundle")
    assert (made.architecture, made.weights_file, made.recipe.std) == ("", WHOLE, (60, 60, 60))
    before, after = keras.models.load_model(path), keras.models.load_model(made.weights_path)
    assert after.output_shape == (None, 3)
    assert (np.asarray(before.get_layer("first").kernel) != np.asarray(after.get_layer("first").kernel)).any()
    for variable, same in zip(before.get_layer("norm").weights, after.get_layer("norm").weights, strict=True):
        np.testing.assert_array_equal(variable, same)
    capsys.readouterr()
    assert evaluate.main(["--bundle", str(made.folder), "--data", str(test_patches), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)


def percentages(x: keras.KerasTensor) -> keras.KerasTensor:
    """A layer with a softmax within, and another behind it."""
    return keras.layers.Rescaling(100.0)(keras.layers.Dense(7, activation="softmax")(x))


def of_a_convolution(x: keras.KerasTensor) -> keras.KerasTensor:
    """As MobileNet's classifier, whose convolution keeps the places."""
    x = keras.layers.Conv2D(7, 1)(keras.layers.Reshape((1, 1, 8))(x))
    return keras.layers.Softmax()(keras.layers.Reshape((7,))(x))


def of_labels(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(7, activation="sigmoid")(x)


def yes_or_no(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(1, activation="sigmoid")(x)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(lambda x: keras.ops.softmax(keras.layers.Dense(7)(x)), id="an operation"),
        pytest.param(percentages, id="percentages"),
        pytest.param(lambda x: keras.layers.Dense(7)(x) / 2.0, id="a division"),
        pytest.param(lambda x: keras.layers.Reshape((7,))(keras.layers.Dense(7)(x)), id="a reshaping"),
        pytest.param(of_a_convolution, id="a convolution"),
        pytest.param(of_labels, id="a sigmoid of each label"),
        pytest.param(lambda x: keras.ops.sigmoid(keras.layers.Dense(7)(x)), id="a sigmoid behind them"),
        pytest.param(yes_or_no, id="yes or no"),
    ],
)
def test_what_is_behind_the_head_of_a_keras_file_does_not_matter(tail: Tail, tmp_path: Path) -> None:
    base = find_base(str(keras_model(tmp_path / "base.keras", tail=tail)))
    assert base.recipe is not None
    old = network.load(base, base.recipe)
    network.check(old, base, 1)
    new = network.with_new_head(base, old, 3, base.recipe, 1)
    new.assembly.model.save(tmp_path / "new.keras")
    pictures = np.random.default_rng(1).normal(0, 1, (5, 8, 8, 3)).astype(np.float32)
    found = new.assembly.model.predict(pictures, verbose=0)
    seen = keras.Model(new.assembly.model.inputs, new.features).predict(pictures, verbose=0).reshape(5, 8)
    kernel, bias = (np.asarray(each) for each in new.head.weights)
    np.testing.assert_allclose(found, seen @ kernel.reshape(8, 3) + bias, rtol=1e-4, atol=1e-5)


def test_a_head_that_cannot_be_renewed_is_refused_before_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = keras_model(
        tmp_path / "base.keras",
        tail=lambda x: keras.ops.mean(keras.layers.Dense(7)(keras.layers.Reshape((2, 4))(x)), axis=1),
    )
    data = write_images(tmp_path / "data", each=2, seed=1)
    (data / "red" / "broken.png").write_bytes(b"no picture")
    assert command.main(options(data, tmp_path / "run", "--from", str(path))) == 1
    said = capsys.readouterr().err
    assert "base.keras cannot be given a new head in place of" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_half_the_bytes_are_refused_for_a_whole_keras_model(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = keras_model(tmp_path / "base.keras")
    assert command.main(options(patches, tmp_path / "run", "--from", str(path), "--weights-dtype", "float16")) == 1
    assert "--weights-dtype float16 has no effect on a whole Keras model" in capsys.readouterr().err


def weights_file(path: Path, *, classes: int = 7) -> Path:
    """Random weights of a small network, as we save them."""
    row = find("basic_cnn")
    weights.save(assemble(row, classes=classes, input_shape=(8, 8, 3)).model, path)
    return path


def test_a_weights_file_says_itself_how_many_classes_it_has(patches: Path, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "base.safetensors")
    scaling = ("--channels", "3", "--size", "8x8", "--mean", "127", "127", "127", "--std", "60", "60", "60")
    assert (
        command.main(options(patches, tmp_path / "run", "--from", str(path), "--architecture", "basic_cnn", *scaling))
        == 0
    )
    before, after = load_file(path), load_file(tmp_path / "run" / "bundle" / bundle.WEIGHTS)
    np.testing.assert_array_equal(before["stem_conv/kernel"], after["stem_conv/kernel"])
    assert before["classifier_logits/bias"].shape == (7,)
    assert after["classifier_logits/bias"].shape == (3,)


def test_a_base_without_a_head_is_refused(patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = keras_model(tmp_path / "base.keras", classifier=False)
    assert command.main(options(patches, tmp_path / "run", "--from", str(path))) == 1
    said = capsys.readouterr().err
    assert "has no head to cut: its scores come from 'norm' (BatchNormalization)" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["keras", "weights"])
def test_a_damaged_base_is_refused(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    more: tuple[str, ...] = ()
    if kind == "keras":
        path = keras_model(tmp_path / "base.keras")
    else:
        path = weights_file(tmp_path / "base.safetensors")
        more = (
            "--architecture",
            "basic_cnn",
            "--channels",
            "3",
            "--size",
            "8x8",
            "--mean",
            "1",
            "1",
            "1",
            "--std",
            "1",
            "1",
            "1",
        )
    path.write_bytes(path.read_bytes()[:-200])
    assert command.main(options(patches, tmp_path / "run", "--from", str(path), *more)) == 1
    assert path.name in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_alone_need_their_network_and_their_preprocessing(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights_file(tmp_path / "base.safetensors")
    given = options(patches, tmp_path / "run", "--from", str(path))
    assert command.main(given) == 1
    assert "give the name of their network with --architecture" in capsys.readouterr().err
    assert command.main([*given, "--architecture", "basic_cnn"]) == 1
    assert "It is not known how images were prepared" in capsys.readouterr().err
