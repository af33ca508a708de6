"""Random weights: reproducible, made once, and never to be taken for trained ones."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.models import __main__ as command
from glimpse.models import random_weights, serving, weights
from glimpse.models.bundle import Bundle
from glimpse.models.catalogue import find, rows
from glimpse.models.errors import BundleError
from glimpse.models.sources import ModelSource, resolve


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of their own, so that each file is made here."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIMPSE_CACHE", str(folder))
        yield folder


def found(architecture: str = "mnist_dnn", tag: str = "random", **options: Any) -> Bundle:
    return resolve(ModelSource(weights=tag, architecture=architecture, **options))


@pytest.fixture(scope="module")
def digits(cache: Path) -> Bundle:
    assert cache.is_dir()
    return found()


def test_the_name_says_that_the_weights_are_random(digits: Bundle) -> None:
    assert (digits.name, digits.random, digits.metrics) == ("mnist_dnn_random", True, {})


def test_the_bundle_is_as_the_architecture_was_designed(digits: Bundle) -> None:
    assert (digits.input_shape, digits.recipe.channels) == ((28, 28, 1), "GRAY")
    assert [label.label for label in digits.labels] == [f"class {number}" for number in range(10)]
    assert serving.load_bundle(digits).model.count_params() == 669_706


@pytest.mark.ci
def test_equal_seeds_give_equal_weights_and_others_do_not(digits: Bundle, cache: Path) -> None:
    digits.weights_path.rename(cache / "before")
    again = found()
    assert again.weights_digest == digits.weights_digest
    (cache / "before").unlink()
    other = found(tag="random:7")
    assert other.weights_digest != digits.weights_digest
    assert digits.name != other.name == "mnist_dnn_random_7"
    kernels = [tensor for name, tensor in weights.read(again.weights_path).items() if name.endswith("kernel")]
    assert all(np.asarray(kernel).std() > 0 for kernel in kernels)


def test_what_is_there_is_not_made_again(digits: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    os.utime(digits.weights_path, (0, 0))
    assert found().weights_path == digits.weights_path
    assert time.time() - digits.weights_path.stat().st_mtime < 3600, "as if nobody used it"


@pytest.mark.ci
def test_labels_and_recipe_of_ones_own_are_taken(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "recipe.toml").write_text("height = 8\nwidth = 10\n")
    one = found("basic_cnn", labels=tmp_path / "labels.txt", recipe=tmp_path / "recipe.toml")
    assert (one.input_shape, len(one.labels)) == ((8, 10, 3), 3)
    assert serving.load_bundle(one).model.output_shape == (None, 3)


@pytest.mark.ci
def test_an_auxiliary_classifier_is_left_out(tmp_path: Path) -> None:
    """It is for training only, and a server has no answer for it."""
    (tmp_path / "labels.txt").write_text("a\nb\n")
    one = found("googlenet", options={"auxiliary": True}, labels=tmp_path / "labels.txt")
    assert serving.load_bundle(one).model.output_shape == (None, 2)


def test_every_architecture_has_a_recipe_of_its_shape() -> None:
    for row in rows():
        assert random_weights.recipe(row).shape == row.shape, row.name
        assert len(random_weights.labels(row)) == row.classes


@pytest.mark.parametrize("tag", ["random:", "random:x", "random:-1", "random7", "Random", "random:1234567890"])
def test_another_tag_is_refused_with_the_right_one(tag: str) -> None:
    with pytest.raises(BundleError, match="The tag random serves it untrained, with random weights"):
        found(tag=tag)


def test_an_architecture_without_weights_says_what_can_be_done() -> None:
    with pytest.raises(
        BundleError, match=r"^Nobody has published weights of mnist_dnn .*'cifar10'.*The tag random serves it untrained"
    ):
        found(tag="cifar10")


@pytest.mark.ci
def test_a_network_that_cannot_be_built_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "recipe.toml").write_text("height = 1\nwidth = 1\n")
    with pytest.raises(BundleError, match="The random weights of vgg16 cannot be made: "):
        found("vgg16", recipe=tmp_path / "recipe.toml")
    assert not list((cache / "random").glob(".*")), "something half made"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="Set GLIMPSE_CACHE to a folder that can be written"):
        found()


@pytest.mark.ci
def test_what_nobody_used_for_a_month_is_removed(digits: Bundle, cache: Path) -> None:
    assert digits.weights_path.is_file()
    old = cache / "random" / "old.safetensors"
    old.touch()
    os.utime(old, (0, 0))
    random_weights.file(find("mnist_dnn"), {}, classes=2, input_shape=(4, 4, 1), number=0)
    assert not old.exists()
    assert digits.weights_path.is_file()


def test_describe_says_how_it_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["describe", "mobilenet", "--option", "alpha=0.25"]) == 0
    said = capsys.readouterr().out
    assert "GLIMPSE_MODEL=mobilenet GLIMPSE_VARIANT=keras GLIMPSE_WEIGHTS=random" in said
    assert """GLIMPSE_OPTIONS='{"alpha": 0.25}' make serve""" in said
