"""Bundles: what is written comes back, and what cannot be used says why."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse.models import bundle
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.files import digests
from glimpse.models.heads import Head
from glimpse.models.prestem.recipe import Recipe

RECIPE = Recipe(height=8, width=8, mean=(1.5, 2, 3), std=(4, 5, 6))


def make(folder: Path, **changes: Any) -> bundle.Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    values: dict[str, Any] = {
        "name": "small",
        "version": "1",
        "architecture": "resnet20",
        "variant": "cifar",
        "input_shape": (8, 8, 3),
        "labels": [ClassLabel("cat", "n02123045"), ClassLabel("Schäferhund")],
        "recipe": RECIPE,
        "temperature": 1.25,
        "metrics": {"top1": 0.9},
    }
    return bundle.write(folder, **{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "small").folder


@pytest.fixture
def edit(folder: Path) -> Callable[..., Path]:
    """Change values of the bundle's model.json; None removes one."""

    def change(**changes: Any) -> Path:
        values = json.loads((folder / "model.json").read_text()) | changes
        values = {key: value for key, value in values.items() if value is not None}
        (folder / "model.json").write_text(json.dumps(values))
        return folder

    return change


def test_a_bundle_comes_back_as_it_was_written(folder: Path) -> None:
    found = bundle.read(folder)
    assert found.labels == (ClassLabel("cat", "n02123045"), ClassLabel("Schäferhund"))
    assert found.recipe == RECIPE
    assert found.recipe.digest == RECIPE.digest
    assert (found.name, found.version, found.architecture, found.variant) == ("small", "1", "resnet20", "cifar")
    assert (found.input_shape, found.temperature, found.metrics) == ((8, 8, 3), 1.25, {"top1": 0.9})
    found.check_digest()


def test_thousands_of_labels_with_numbers_of_their_own_come_back(tmp_path: Path) -> None:
    """Tags of photo collections are as many; each has a temperature, an offset and a threshold in the description."""
    labels = [ClassLabel(f"tag {number}") for number in range(8_000)]
    head = Head(
        kind="multi-label",
        temperatures=(1.234567,) * len(labels),
        offsets=(-1.234567,) * len(labels),
        thresholds=(0.345678,) * len(labels),
    )
    assert bundle.read(make(tmp_path / "tags", labels=labels, head=head).folder).head == head


def test_labels_are_one_class_a_line_with_the_id_behind_a_tab(folder: Path) -> None:
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "cat\tn02123045\nSchäferhund\n"


def test_weights_are_hashed_once_however_often_they_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, too: a bundle carries what has been seen of its weights."""
    hashed: list[Path] = []
    digest = digests.digest

    def counted(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    monkeypatch.setattr(digests, "digest", counted)
    found = bundle.read(folder)
    verified = found.verified()
    assert verified == found
    pickle.loads(pickle.dumps(verified)).check_digest()  # noqa: S301 - made here
    assert verified.verified() is verified
    assert hashed == [found.weights_path]


def test_weights_that_have_changed_since_they_were_checked_are_refused(folder: Path) -> None:
    verified = bundle.read(folder).verified()
    before = verified.weights_path.stat()
    verified.weights_path.write_bytes(b"Weights")  # as long as before
    os.utime(verified.weights_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="is not the file that the bundle was made with"):
        verified.check_digest()


def test_other_weights_are_refused_with_both_digests(folder: Path) -> None:
    loaded = bundle.read(folder)
    loaded.weights_path.write_bytes(b"others")
    with pytest.raises(BundleError) as error:
        loaded.check_digest()
    assert loaded.weights_digest in str(error.value)
    assert digests.digest(loaded.weights_path) in str(error.value)


@pytest.mark.parametrize("name", ["model.json", "labels.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} cannot be read: No such file"):
        bundle.read(folder)


def test_the_folder_above_a_bundle_is_answered_with_the_bundle(folder: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    shutil.copytree(folder, above / "bundle")
    with pytest.raises(BundleError, match=f"Did you mean {above / 'bundle'}\\?"):
        bundle.read(above)


def test_missing_weights_are_named(folder: Path) -> None:
    loaded = bundle.read(folder)
    loaded.weights_path.unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read: No such file"):
        loaded.check_digest()


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "must hold a JSON object")])
def test_a_description_that_is_no_json_object_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "has format 3; this version of Glimpse reads formats 1 and 2"),
        ({"temperature": None}, "lacks the key 'temperature'"),
        ({"temperature": 0}, "temperature must be positive. Received: 0"),
        ({"temperature": "warm"}, "temperature must be a number. Received: 'warm'"),
        ({"classes": 3}, r"labels\.txt must name the 3 classes of model\.json. Received: 2 lines"),
        ({"labels": "../labels.txt"}, r"must lie in its folder. Received: '\.\./labels\.txt'"),
        ({"weights": "/etc/passwd"}, "must lie in its folder. Received: '/etc/passwd'"),
        ({"name": "a b"}, "name must be 1 to 200 letters, digits"),
        ({"version": 1}, "version must be 1 to 200 letters, digits"),
        ({"input_shape": [8, 8]}, "three positive sizes"),
        ({"input_shape": [16, 8, 3]}, "input_shape must be the size that the recipe produces, 8x8x3"),
        ({"recipe": {"height": 8}}, "The recipe must give width"),
        ({"recipe": []}, "cannot be used"),
        ({"metrics": []}, "cannot be used"),
        ({"architecture": "resnet21"}, "Did you mean resnet20.*newer version of Glimpse"),
        ({"variant": "imagenet"}, "has no variant 'imagenet'"),
        ({"option": {"stem": "paper"}}, r"unknown key\. Received: 'option'\. Did you mean options\?"),
        ({"temperature": None, "temprature": 1.5}, r"Received: 'temprature'\. Did you mean temperature\?"),
        ({"recipe": {"height": 8, "width": 8, "filtre": "bicubic"}}, r"no field 'filtre'\. Did you mean filter\?"),
    ],
)
def test_a_description_that_cannot_be_is_refused(
    edit: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.read(edit(**changes))


def test_keys_that_resemble_no_known_one_are_ignored(edit: Callable[..., Path]) -> None:
    assert bundle.read(edit(trained_by="somebody", comment="kept for later")).name == "small"


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(folder / "weights.safetensors", outside)
    (folder / "weights.safetensors").symlink_to(outside)
    with pytest.raises(BundleError, match="must lie in its folder"):
        bundle.read(folder)


@pytest.mark.parametrize("text", ["cat\n\ndog\n", "cat\r\n\r\ndog", "cat\n \t \ndog\n", "cat\n\tn02123045\ndog\n"])
def test_a_class_without_a_name_is_refused_with_its_line(folder: Path, text: str) -> None:
    (folder / "labels.txt").write_text(text, newline="")
    with pytest.raises(BundleError, match="line 2 of the labels"):
        bundle.read(folder)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r", "\n\n\n", "\r\n\r\n", "\n \t\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_are_read_whatever_an_editor_made_of_their_file(folder: Path, encoding: str, end: str) -> None:
    between = end[: 2 if end.startswith("\r\n") else 1] or "\n"
    text = f"cat\tn02123045{between}Schäfer\u2028hund été {end}"
    (folder / "labels.txt").write_bytes(text.encode(encoding))
    found = bundle.read_labels(folder / "labels.txt")
    assert found == (ClassLabel("cat", "n02123045"), ClassLabel("Schäfer\u2028hund été "))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "latin-1"])
def test_labels_in_another_encoding_are_refused_with_what_to_do(folder: Path, encoding: str) -> None:
    (folder / "labels.txt").write_bytes("café\ndog\n".encode(encoding))
    with pytest.raises(BundleError, match=r"labels\.txt cannot be read: .*Save the file as UTF-8"):
        bundle.read(folder)


@pytest.mark.parametrize("label", [ClassLabel(""), ClassLabel("a\tb"), ClassLabel("a\nb"), ClassLabel("a", "b\tc")])
def test_a_label_that_would_not_come_back_is_not_written(tmp_path: Path, label: ClassLabel) -> None:
    with pytest.raises(BundleError, match="one line of text without tabs"):
        make(tmp_path / "odd", labels=[label])
