"""The parts of a transfer: features, the hold-out, class weights, cutting a head, the plan."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from glimpse.models import bundle
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.fit import HISTORY, SmoothedCrossEntropy
from glimpse.models.train.transfer import features, fit, network
from glimpse.models.train.transfer.base import find_base
from glimpse.models.train.transfer.phase import Data, Phase
from glimpse.models.train.transfer.plan import HEAD_CHECKPOINT, TransferPlan, batch_size
from glimpse.models.train.transfer.split import split

RECIPE = Recipe(height=8, width=8, mean=(127.0,) * 3, std=(60.0,) * 3)
PLAN: dict[str, Any] = {"base": "b", "base_digest": "random", "architecture": "basic_cnn", "variant": "handbook"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (70, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def transferred() -> network.Network:
    base = find_base("basic_cnn:random")
    return network.with_new_head(base, network.load(base, RECIPE), 3, RECIPE, 1)


@pytest.fixture(scope="module")
def extractor(transferred: network.Network) -> keras.Model:
    return features.extractor(transferred.assembly.model, transferred.features, RECIPE)


def test_features_are_what_the_head_sees_of_each_view(
    extractor: keras.Model, transferred: network.Network, pixels: np.ndarray, tmp_path: Path
) -> None:
    found = features.compute(extractor, pixels, tmp_path, key="k", report=lambda done: None)
    scaled = (pixels.astype(np.float32) - 127) / 60
    expected = transferred.assembly.model.predict(scaled, verbose=0)
    for view, whole in ((0, scaled), (1, scaled[:, :, ::-1])):
        head = keras.Model(transferred.features, transferred.assembly.model.outputs[0])
        expected = transferred.assembly.model.predict(whole, verbose=0)
        np.testing.assert_allclose(head.predict(found.take(np.arange(70), view), verbose=0), expected, atol=2e-2)
    assert np.abs(found.take(np.arange(70), 0) - found.take(np.arange(70), 1)).max() > 0.1


def test_features_that_were_interrupted_go_on_where_they_were_kept(
    extractor: keras.Model, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH", 4)
    whole = features.compute(extractor, pixels, tmp_path / "whole", key="k", report=lambda done: None)

    def interrupt(done: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.compute(extractor, pixels, tmp_path / "run", key="k", report=interrupt)
    seen: list[int] = []
    found = features.compute(extractor, pixels, tmp_path / "run", key="k", report=seen.append)
    assert seen[0] == 96  # kept every eight batches
    np.testing.assert_array_equal(found.values, whole.values)
    seen.clear()
    features.compute(extractor, pixels, tmp_path / "run", key="k", report=seen.append)
    assert seen == [140]
    features.compute(extractor, pixels, tmp_path / "run", key="another", report=seen.append)
    assert seen[1] == 0


def test_a_file_of_features_that_was_cut_off_is_computed_anew(
    extractor: keras.Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    whole = np.array(features.compute(extractor, pixels, tmp_path, key="k", report=lambda done: None).values)
    file = tmp_path / features.FOLDER / "values.npy"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-100])
    found = features.compute(extractor, pixels, tmp_path, key="k", report=lambda done: None)
    np.testing.assert_array_equal(found.values, whole)


def test_features_for_which_there_is_no_room_are_told_of_before_any_is_computed(
    extractor: keras.Model, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left on device. The features take 0 MB"):
        features.compute(extractor, pixels, tmp_path, key="k", report=lambda done: None)


def test_the_key_of_features_depends_on_the_images_and_all_parts(pixels: np.ndarray) -> None:
    other = pixels.copy()
    other[69, 7, 7, 2] ^= 1
    keys = {features.key_of(pixels, "a"), features.key_of(pixels, "b"), features.key_of(other, "a")}
    assert len(keys) == 3
    assert features.key_of(pixels.copy(), "a") in keys


def test_features_that_are_not_finite_are_refused(
    transferred: network.Network, pixels: np.ndarray, tmp_path: Path
) -> None:
    recipe = Recipe(height=8, width=8, std=(1e-30,) * 3)
    model = features.extractor(transferred.assembly.model, transferred.features, recipe)
    with pytest.raises(ValueError, match="not finite or too large"):
        features.compute(model, pixels, tmp_path, key="k", report=lambda done: None)


def test_a_folder_named_as_an_architecture_is_not_taken_for_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("se_resnet20").mkdir()
    assert find_base("se_resnet20").name == "se_resnet20:cifar10"
    Path("photos").mkdir()
    with pytest.raises(ValueError, match=r"photos/model\.json cannot be read"):
        find_base("photos")
    shutil.copytree(bundle.EMBEDDED / "se_resnet20_cifar10", "se_resnet20", dirs_exist_ok=True)
    assert find_base("se_resnet20").name == "se_resnet20"


def test_random_weights_are_those_of_the_seed_in_their_tag() -> None:
    bases = [find_base(f"basic_cnn:{tag}") for tag in ("random", "random:0", "random:7")]
    bases.append(find_base("random:7", "basic_cnn"))
    assert [base.seed for base in bases] == [0, 0, 7, 7]
    zero, same, seven, also = (np.asarray(network.load(base, RECIPE).model.weights[0]) for base in bases)
    np.testing.assert_array_equal(zero, same)
    np.testing.assert_array_equal(seven, also)
    assert (zero != seven).any()
    with pytest.raises(ValueError, match="There are no weights of basic_cnn"):
        find_base("basic_cnn:random:x")


@pytest.mark.parametrize("other", [{"architecture": "mnist_dnn"}, {"variant": "x"}, {"options": {"a": 1}}])
def test_features_of_random_bases_are_told_apart(
    transferred: network.Network, pixels: np.ndarray, tmp_path: Path, other: dict[str, Any]
) -> None:
    first = features.of_run(transferred, pixels, RECIPE, tmp_path, parts=features.parts_of(TransferPlan(**PLAN)))
    assert first.values.shape[1] == 70
    state = tmp_path / features.FOLDER / "state.json"
    before = state.read_text()
    plan = TransferPlan(**{**PLAN, **other})
    features.of_run(transferred, pixels, RECIPE, tmp_path, parts=features.parts_of(plan))
    assert state.read_text() != before


@pytest.mark.parametrize("count", [3, 4, 20, 61, 103])
def test_every_class_is_held_out_by_its_share_and_never_whole(count: int) -> None:
    classes = np.repeat([0, 1, 2], [100, 4, 2])
    parts = split(classes, ("many", "few", "two"), count, seed=5)
    held = np.bincount(classes[parts.held_out], minlength=3)
    assert held.sum() == count
    assert (held >= 1).all()
    assert (held < [100, 4, 2]).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([parts.training, parts.held_out])), np.arange(106))


def test_the_same_seed_holds_out_the_same_images() -> None:
    classes = np.repeat([0, 1], [30, 50])
    first, again, other = (split(classes, ("a", "b"), 8, seed=seed).held_out for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert np.bincount(classes[first]).tolist() == [3, 5]


@pytest.mark.parametrize(("count", "message"), [(1, "at least 2"), (7, "at most 6 here")])
def test_a_hold_out_that_leaves_a_class_without_images_is_refused(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(np.repeat([0, 1], [4, 4]), ("a", "b"), count, seed=1)


def test_balanced_class_weights_let_all_classes_count_the_same() -> None:
    classes = np.repeat([0, 1, 2], [10, 1, 4])
    found = fit.weights_of(classes, TransferPlan(**PLAN))
    assert found is not None
    assert [found[number] * count for number, count in enumerate((10, 1, 4))] == pytest.approx([5, 5, 5])
    assert fit.weights_of(classes, TransferPlan(**PLAN, class_weights="none")) is None


@pytest.mark.parametrize(("images", "size"), [(100_000, 32), (512, 32), (511, 16), (255, 8), (3, 8)])
def test_few_images_come_in_small_batches(images: int, size: int) -> None:
    assert batch_size(images) == size


@pytest.mark.parametrize("values", [{"epochs": 0}, {"thaw": -1}, {"patience": 0}, {"class_weights": "some"}])
def test_a_plan_refuses_values_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        TransferPlan(**PLAN, **values)


@pytest.mark.parametrize(
    ("name", "head", "features_shape"),
    [
        pytest.param("squeezenet1_1", "classifier_logits_conv", (None, None, 512), id="a 1x1 convolution"),
        pytest.param("mobilenet_v2", "classifier_logits", (1280,), id="behind dropout"),
        pytest.param(
            "vgg11", "classifier_logits", (4096,), id="the last of three dense layers", marks=pytest.mark.slow
        ),
        pytest.param(
            "googlenet", "classifier_logits", (1024,), id="beside auxiliary classifiers", marks=pytest.mark.ci
        ),
    ],
)
def test_the_head_is_the_layer_that_gives_the_scores(
    name: str, head: str, features_shape: tuple[int | None, ...]
) -> None:
    recipe = Recipe(height=64, width=64)
    base = find_base(f"{name}:random", options={"auxiliary": True} if name == "googlenet" else None)
    found = network.with_new_head(base, network.load(base, recipe), 5, recipe, 1)
    assert found.head.name == head
    assert found.assembly.model.output_shape == (None, 5)
    shape = found.features.shape[1:]
    assert len(shape) == len(features_shape)
    assert shape[-1] == features_shape[-1]
    assert "classifier" not in dict(found.stages)


def test_a_thawed_stage_trains_without_its_batch_normalisation() -> None:
    recipe = Recipe(height=32, width=32)
    base = find_base("resnet20:random")
    found = network.with_new_head(base, network.load(base, recipe), 5, recipe, 1)
    fit.thaw(found, 1)
    trained = {variable.path.split("/")[0] for variable in found.assembly.model.trainable_variables}
    assert {name.split("_")[0] for name in trained} == {"group3", "classifier"}
    assert not [name for name in trained if name.endswith("_bn")]
    fit.thaw(found, 0)
    assert [v.path.split("/")[0] for v in found.assembly.model.trainable_variables] == ["classifier_logits"] * 2


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        pytest.param("epoch,thawed,val_loss,val_calibrated\n1,0,0.5,0.50\n2,0,0.6,0.40\n3,0,0.7,0.45", 2, id="new"),
        pytest.param("epoch,thawed,val_loss\n1,0,0.5\n2,0,0.6\n3,0,0.7", 1, id="begun without it"),
    ],
)
def test_the_epoch_that_is_kept_is_the_best_after_calibration(tmp_path: Path, rows: str, best: int) -> None:
    image = keras.Input((2,))
    model = keras.Model(image, keras.layers.Dense(2)(image))
    model.compile(optimizer=keras.optimizers.AdamW(0.1), loss=SmoothedCrossEntropy(2))
    for _ in range(3):
        model.train_on_batch(np.eye(2, dtype=np.float32), np.array([0, 1]))
    model.save_weights(tmp_path / HEAD_CHECKPOINT)
    (tmp_path / HISTORY).write_text(rows)

    def nothing() -> Data:
        raise AssertionError("there is no epoch to train")

    outcome = Phase("head", tmp_path, epochs=3, patience=3, steps=1).run(model, nothing)
    assert (outcome.epochs, outcome.best, outcome.ended) == (3, best, True)


def test_a_phase_goes_on_with_the_dropout_that_it_was_interrupted_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, classes = rng.normal(0, 1, (1, 16, 4)).astype(np.float16), rng.integers(0, 2, 16)
    found, everything = features.Features(values), np.arange(16)

    def latest(folder: Path, *calls: int | None) -> list[np.ndarray]:
        for stop_after in calls:
            keras.utils.set_random_seed(1)
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
            model.compile(optimizer=keras.optimizers.Adam(0.1), loss=SmoothedCrossEntropy(2), metrics=["accuracy"])
            model.optimizer.build(model.trainable_variables)
            Phase("head", folder, epochs=2, patience=9, steps=4).run(
                model,
                lambda: Data(
                    lambda epoch: fit.FeatureBatches(found, everything, classes, batch_size=4, seed=1, epoch=epoch),
                    (found.take(everything), classes),
                ),
                stop_after=stop_after,
            )
        model.load_weights(folder / HEAD_CHECKPOINT)
        return [np.asarray(keras.ops.convert_to_numpy(weight)) for weight in model.weights]

    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole, resumed = latest(tmp_path / "whole", None), latest(tmp_path / "resumed", 1, None)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_size_that_the_weights_do_not_fit_is_refused() -> None:
    base = find_base("basic_cnn:random")
    old = assemble(find("basic_cnn"), classes=4, input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="only be used for images of the size that its weights were trained with"):
        network.with_new_head(base, old, 3, Recipe(height=16, width=16), 1)


@pytest.mark.parametrize(("images", "said"), [(1, "only 1 image,"), (0, "only 0 images,")])
def test_a_class_needs_two_images(images: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"The class 'b' has {said} but needs two"):
        split(np.repeat([0, 1], [4, images]), ("a", "b"), 2, seed=1)
