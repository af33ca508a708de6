"""From a tag, a folder or a file to what is served."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse import models
from glimpse.models import bundle, published, serving, weights
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.catalogue import UnknownArchitectureError
from glimpse.models.files import digests
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.sources import ModelSource, resolve
from glimpse.models.weights import WeightsError, WeightsMismatchError
from tests.models import web

RECIPE = 'height = 8\nwidth = 8\nmean = [120, 121, 122]\nstd = [60, 61, 62]\nchannels = "BGR"\n'
PIXELS = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    keras.utils.set_random_seed(1)
    model = models.build("resnet20", classes=3, input_shape=(8, 8, 3))
    weights.save(model, tmp_path / "photos of mine.safetensors")
    (tmp_path / "labels.txt").write_text("cat\tn1\ndog\nfox\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "photos of mine.safetensors"


def own_model(path: Path, *last: keras.Layer, features: int = 3) -> Path:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(4, 3, name="first"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(features),
            *last,
        ]
    )
    model.save(path)
    (path.parent / "labels.txt").write_text("cat\ndog\nfox\n")
    (path.parent / "recipe.json").write_text(json.dumps({"height": 8, "width": 8}))
    return path


def test_the_embedded_weights_are_found_by_their_tag() -> None:
    assert resolve(ModelSource(weights="cifar10")).folder == bundle.EMBEDDED_DEFAULT
    assert resolve(ModelSource(weights="cifar10", architecture="se_resnet20")).folder == bundle.EMBEDDED_DEFAULT


def test_a_bundle_is_found_by_its_folder(tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.EMBEDDED_DEFAULT, tmp_path / "mine")
    assert resolve(ModelSource(weights=str(folder))).folder == folder


def test_a_bundle_of_another_architecture_is_refused() -> None:
    with pytest.raises(BundleError, match="holds weights of se_resnet20, not of resnet20"):
        resolve(ModelSource(weights=str(bundle.EMBEDDED_DEFAULT), architecture="resnet20"))


@pytest.mark.parametrize(
    ("tag", "answer"),
    [("cifar100", r"no weights 'cifar100'.*Did you mean cifar10\?"), ("zzz", r"Available: .*cifar10")],
    ids=["near", "far"],
)
def test_an_unknown_tag_is_answered_with_those_there_are(tag: str, answer: str) -> None:
    with pytest.raises(BundleError, match=answer):
        resolve(ModelSource(weights=tag, architecture="se_resnet20"))


@pytest.mark.parametrize("architecture", ["", "se_resnet20", "mnist_dnn"])
def test_the_folder_of_a_training_is_answered_with_the_bundle_in_it(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the folder of that name is no bundle, because it has no model\.json\."):
        resolve(ModelSource(weights=str(tmp_path), architecture=architecture))
    shutil.copytree(bundle.EMBEDDED / "se_resnet20_cifar10", tmp_path / "bundle")
    with pytest.raises(BundleError, match=f"but {tmp_path / 'bundle'} is one"):
        resolve(ModelSource(weights=str(tmp_path), architecture=architecture))


def test_published_weights_are_fetched_and_serve_with_their_labels_and_recipe(
    weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published weights are fetched and serve with labels and a recipe of their own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    keras.utils.set_random_seed(3)
    published_net = models.build("squeezenet1_1")
    weights.save(published_net, tmp_path / "published.safetensors")
    known = published.find("squeezenet1_1")
    with web.serving() as server:
        server.body = (tmp_path / "published.safetensors").read_bytes()
        row = replace(known, url=f"{server.url}/{known.file}", checksum=None)
        # Where it lies is all that differs from the row: there is no other network here.
        monkeypatch.setattr(published, "find", lambda *_: row)
        found = resolve(ModelSource(weights="imagenet", architecture="squeezenet1_1"))
    assert (found.name, found.variant) == ("squeezenet1_1_imagenet", "torchvision")
    assert found.weights_path.parent == tmp_path / "cache"
    assert found.labels[285] == ClassLabel("Egyptian cat", "n02124075")
    assert found.recipe == known.recipe
    assert found.metrics["top1"] == pytest.approx(known.top1 / 100)
    x = np.random.default_rng(0).normal(0, 1, (1, 224, 224, 3)).astype(np.float32)
    ours = serving.load_bundle(found).model(x)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(published_net(x)))


def test_weights_that_cannot_be_fetched_are_told_with_the_file_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    known = published.find("resnet50")
    with web.serving() as server:
        server.script = [web.status(404)]
        monkeypatch.setattr(published, "find", lambda *_: replace(known, url=f"{server.url}/{known.file}"))
        with pytest.raises(BundleError, match=rf"{known.file}[\s\S]*{tmp_path}"):
            resolve(ModelSource(weights="imagenet", architecture="resnet50"))


def test_an_option_that_contradicts_published_weights_is_refused() -> None:
    with pytest.raises(BundleError, match=r"published for alpha=0\.5\. Received: alpha=0\.25"):
        resolve(ModelSource(weights="imagenet_alpha0.5", architecture="mobilenet", options={"alpha": 0.25}))


@pytest.mark.parametrize(
    ("tag", "architecture", "options", "answer"),
    [
        ("imagenet", "mobilenet", {"alpha": 0.25}, r"for alpha=1\.0\. .* another tag: .*imagenet_alpha0\.25"),
        ("imagenet", "resnet50", {"activation": "silu"}, "published for activation=relu. Received: activation=silu"),
        ("imagenet", "", {"bogus": 1}, r"efficientnet_lite0 \(tensorflow\) has no option 'bogus'"),
        ("cifar10", "", {"bogus": 1}, r"se_resnet20 \(\w+\) has no option 'bogus'"),
        ("cifar10", "", {"se_ratio": 3}, "for se_ratio=8. Received: se_ratio=3. Leave the option out"),
        (str(bundle.EMBEDDED_DEFAULT), "", {"se_ratio": 3}, "for se_ratio=8. Received: se_ratio=3"),
    ],
)
def test_options_that_would_make_another_network_are_refused(
    tag: str, architecture: str, options: dict[str, Any], answer: str
) -> None:
    """Some have no weights of their own, so that nothing else would tell: the answers would just be wrong."""
    with pytest.raises(ValueError, match=answer):
        resolve(ModelSource(weights=tag, architecture=architecture, options=options))


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"se_ratio": 8}, {"depths": [3, 3, 3]}])
def test_options_that_change_nothing_are_taken_for_a_bundle(options: dict[str, Any]) -> None:
    assert resolve(ModelSource(weights="cifar10", options=options)).folder == bundle.EMBEDDED_DEFAULT


def test_the_shipped_weights_may_be_named_with_their_variant() -> None:
    assert resolve(ModelSource(weights="cifar10", variant="cifar_wide")).folder == bundle.EMBEDDED_DEFAULT
    with pytest.raises(BundleError, match=r"are for the variant cifar_wide\. Received: cifar\."):
        resolve(ModelSource(weights=str(bundle.EMBEDDED_DEFAULT), variant="cifar"))


@pytest.mark.parametrize("setting", ["labels", "recipe"])
@pytest.mark.parametrize("model", ["cifar10", str(bundle.EMBEDDED_DEFAULT)], ids=["tag", "folder"])
def test_a_bundle_s_own_labels_and_recipe_are_not_replaced(model: str, setting: str, tmp_path: Path) -> None:
    """They were ignored, so whoever set one was served something else than was asked for."""
    with pytest.raises(BundleError, match=rf"GLIMPSE_{setting.upper()} is for weights files .* has its own"):
        resolve(ModelSource(weights=model, **{setting: tmp_path / "mine"}))  # type: ignore[arg-type]


def test_options_of_a_file_without_an_architecture_are_refused(tmp_path: Path) -> None:
    path = own_model(tmp_path / "mine.keras")
    with pytest.raises(BundleError, match="GLIMPSE_MODEL does not say"):
        resolve(ModelSource(weights=str(path), options={"alpha": 0.5}))


def test_an_unknown_architecture_is_named_before_its_weights() -> None:
    with pytest.raises(UnknownArchitectureError, match="se_resnet2000"):
        resolve(ModelSource(weights="nothing", architecture="se_resnet2000"))


def test_a_weights_file_takes_labels_and_recipe_from_beside_it(weights_file: Path) -> None:
    found = resolve(ModelSource(weights=str(weights_file), architecture="resnet20"))
    assert (found.name, found.architecture, found.variant) == ("photos-of-mine", "resnet20", "cifar")
    assert found.labels == (ClassLabel("cat", "n1"), ClassLabel("dog"), ClassLabel("fox"))
    assert found.recipe == Recipe(height=8, width=8, mean=(120, 121, 122), std=(60, 61, 62), channels="BGR")
    assert found.weights_digest == digests.digest(weights_file)
    assert found.weights_digest.removeprefix("sha256:").startswith(found.version)
    assert serving.load_bundle(found).model.output_shape == (None, 3)


def test_a_weights_file_is_hashed_once(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its digest; nobody has to compare it with that."""
    found = resolve(ModelSource(weights=str(weights_file), architecture="resnet20"))
    monkeypatch.setattr(digests, "digest", None)
    found.check_digest()


def test_labels_and_recipe_can_be_named(weights_file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "names").write_text("eins\nzwei\ndrei\n")
    (elsewhere / "mine.json").write_text('{"height": 8, "width": 8, "geometry": "squash"}')
    found = resolve(
        ModelSource(
            weights=str(weights_file),
            architecture="resnet20",
            labels=elsewhere / "names",
            recipe=elsewhere / "mine.json",
        )
    )
    assert [label.label for label in found.labels] == ["eins", "zwei", "drei"]
    assert found.recipe.geometry == "squash"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("recipe.toml", RECIPE), ("recipe.json", '{"height": 8, "width": 8}')])
def test_labels_and_recipe_may_have_a_byte_order_mark(weights_file: Path, encoding: str, name: str, text: str) -> None:
    recipe = weights_file.parent / name
    recipe.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    (weights_file.parent / "labels.txt").write_bytes("cat\tn1\r\ndog\r\nfox\r\n\r\n".encode(encoding))
    found = resolve(ModelSource(weights=str(weights_file), architecture="resnet20", recipe=recipe))
    assert found.labels == (ClassLabel("cat", "n1"), ClassLabel("dog"), ClassLabel("fox"))
    assert (found.recipe.height, found.recipe.width) == (8, 8)


@pytest.mark.parametrize("missing", ["labels.txt", "recipe.toml"])
def test_what_is_missing_beside_a_file_is_named_with_the_setting_that_gives_it(
    weights_file: Path, missing: str
) -> None:
    (weights_file.parent / missing).unlink()
    with pytest.raises(BundleError, match=rf"{missing}.*GLIMPSE_{missing.partition('.')[0].upper()}"):
        resolve(ModelSource(weights=str(weights_file), architecture="resnet20"))


@pytest.mark.parametrize("text", ["height = 8", "height = 8\nwidth = 8\nheigth = 9", "height = ", "[1, 2]"])
def test_an_impossible_recipe_is_refused_with_its_file(weights_file: Path, text: str) -> None:
    (weights_file.parent / "recipe.toml").write_text(text)
    with pytest.raises(BundleError, match=r"recipe\.toml cannot be used"):
        resolve(ModelSource(weights=str(weights_file), architecture="resnet20"))


@pytest.mark.parametrize(("name", "text"), [("recipe.json", "[" * 50_000), ("recipe.toml", "a = " + "[" * 900)])
def test_a_recipe_nested_without_end_is_refused(weights_file: Path, name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match=r"The recipe .* cannot be used: it is nested more than 32 levels deep"):
        resolve(ModelSource(weights=str(weights_file), architecture="resnet20", recipe=tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize("what", ["weights", "recipe"])
def test_a_named_pipe_is_no_file_and_nobody_waits_for_it(weights_file: Path, what: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = ModelSource(
        weights=str(pipe if what == "weights" else weights_file),
        architecture="resnet20",
        recipe=pipe if what == "recipe" else None,
    )
    with pytest.raises(BundleError, match="is a named pipe, not a file"):
        resolve(source)


@pytest.mark.parametrize("name", ["model.keras", "model.pth"])
def test_a_damaged_archive_is_refused_in_a_sentence(name: str, weights_file: Path) -> None:
    path = weights_file.with_name(name)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match="is a damaged zip file"):
        serving.load_bundle(resolve(ModelSource(weights=str(path))))


def test_a_file_of_holes_is_refused_before_it_is_read(weights_file: Path) -> None:
    path = weights_file.with_name("large.pth")
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="the file system stores only a fraction"):
        resolve(ModelSource(weights=str(path), architecture="resnet20"))


def test_weights_without_a_network_ask_for_its_name(weights_file: Path) -> None:
    with pytest.raises(BundleError, match="needs an architecture: give its name with GLIMPSE_MODEL"):
        resolve(ModelSource(weights=str(weights_file)))


def test_weights_of_another_number_of_classes_list_the_tensors_that_do_not_fit(weights_file: Path) -> None:
    (weights_file.parent / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(
        WeightsMismatchError, match=r"misshapen: classifier_logits/kernel: \(64, 3\), the network has \(64, 2\)"
    ):
        serving.load_bundle(resolve(ModelSource(weights=str(weights_file), architecture="resnet20")))


@pytest.mark.parametrize(
    "last",
    [
        list,
        lambda: [keras.layers.Softmax()],
        lambda: [keras.layers.Activation("softmax")],
        lambda: [keras.layers.Dense(3, activation="softmax")],
    ],
    ids=["logits", "softmax-layer", "activation-layer", "dense-softmax"],
)
def test_a_keras_file_serves_as_it_is(tmp_path: Path, last: Any) -> None:
    path = own_model(tmp_path / "mine.keras", *last())
    found = resolve(ModelSource(weights=str(path)))
    assembly = serving.load_bundle(found)
    served = serving.serving_model(assembly, found.recipe, found.temperature)
    scores = keras.saving.load_model(path)(PIXELS.astype(np.float32))
    expected = keras.ops.convert_to_numpy(scores if last() else keras.ops.softmax(scores))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(served(PIXELS)), expected, atol=1e-6)
    (stage,) = assembly.stages
    assert stage.multiply_adds >= 6 * 6 * 9 * 3 * 4 + 4 * 3
    assert (stage.name, stage.output_shape, stage.parameters) == ("network", (3,), assembly.model.count_params())


def test_a_keras_file_that_ends_in_something_else_is_refused(tmp_path: Path) -> None:
    path = own_model(tmp_path / "mine.keras", keras.layers.Activation("sigmoid"))
    with pytest.raises(WeightsError, match=r"softmax or in logits\. Received: sigmoid"):
        serving.load_bundle(resolve(ModelSource(weights=str(path))))


def test_a_keras_file_needs_one_label_a_class(tmp_path: Path) -> None:
    path = own_model(tmp_path / "mine.keras", features=4)
    with pytest.raises(WeightsError, match="gives 4 scores, but there are 3 labels"):
        serving.load_bundle(resolve(ModelSource(weights=str(path))))


def test_a_keras_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = own_model(tmp_path / "mine.keras", keras.layers.Lambda(lambda x: x * 2))
    with pytest.raises(WeightsError, match="safe mode"):
        serving.load_bundle(resolve(ModelSource(weights=str(path))))
