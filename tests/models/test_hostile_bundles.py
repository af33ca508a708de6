"""Bundles made to harm: they are read within bounds and within their folder, or refused in a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from glimpse.models import bundle, catalogue, golden, labels, serving, sources
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.files import bounded_files, digests
from glimpse.models.prestem.recipe import Recipe
from tests.variations import mostly_in_ci

SECRET = "nobody-s-business"  # noqa: S105 - of a test


def pixels_count(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A clear answer to every picture."""
    return np.tile(np.array([[0.9, 0.1]], np.float32), (len(pixels), 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with golden answers, and beside it a file that is none of its business."""
    place = tmp_path / "small"
    place.mkdir()
    (tmp_path / "secret.txt").write_text(f"{SECRET}\n{SECRET}\n")
    (place / "weights.safetensors").write_bytes(b"weights")
    made = bundle.write(
        place,
        name="small",
        version="1",
        architecture="resnet20",
        variant="cifar",
        input_shape=(8, 8, 3),
        labels=[ClassLabel("cat"), ClassLabel("dog")],
        recipe=Recipe(height=8, width=8),
        temperature=1.0,
        metrics={},
    )
    shipped = golden.pictures(bundle.EMBEDDED_DEFAULT)
    golden.record(made, pixels_count, shipped[:2], by="a test")
    return place


@pytest.fixture
def edit(folder: Path) -> Callable[..., Path]:
    """Change values of a file of JSON in the bundle."""

    def change(file: str = "model.json", **changes: Any) -> Path:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return change


def whole(folder: Path) -> None:
    """Read all of a bundle."""
    found = bundle.read(folder)
    found.check_digest()
    golden.read(found)


def refusal(folder: Path) -> str:
    """The sentence with which a bundle is refused."""
    with pytest.raises(BundleError) as refused:
        whole(folder)
    message = str(refused.value)
    assert len(message) < 1500
    assert message.isprintable()
    assert SECRET not in message
    return message


@pytest.mark.parametrize("field", ["golden", "labels", "weights"])
@pytest.mark.parametrize(
    "name",
    ["..", ".", "../small", "/etc/passwd", "a/b", "a\\b", "C:\\a", "C:a", "a\0b", "a\x1b[2J", "x" * 300],
)
def test_a_name_that_is_no_plain_name_is_refused(edit: Callable[..., Path], field: str, name: object) -> None:
    assert "must lie in its folder" in refusal(edit(**{field: name}))


def picture(folder: Path) -> str:
    """The name of one of the golden pictures."""
    return next(path.name for path in (folder / "golden").iterdir() if path.suffix == ".png")


@pytest.mark.parametrize(
    "name", ["model.json", "labels.txt", "weights.safetensors", "golden", "golden/answers.json", "png"]
)
def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / "golden" / picture(folder) if name == "png" else folder / name
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    assert "must lie in its folder" in refusal(folder)
    path.unlink()
    path.symlink_to("../" * 20 + str(outside))  # the same by a relative link
    assert "must lie in its folder" in refusal(folder)


def test_a_link_to_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "inner").symlink_to(tmp_path / "secret.txt")
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("inner")
    assert "must lie in its folder" in refusal(folder)


def test_links_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("other.txt")
    (folder / "other.txt").symlink_to("labels.txt")
    refusal(folder)


def test_tensors_beside_a_model_lie_in_the_folder_too(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.safetensors.data").symlink_to(tmp_path / "secret.txt")
    assert "must lie in its folder" in refusal(folder)


def test_files_that_kubernetes_mounts_as_links_are_read(folder: Path) -> None:
    """A ConfigMap or a projected volume: every entry is a link through ``..data``, which a new version replaces."""
    version = folder / "..2026_01_01_00_00_00.123"
    version.mkdir()
    for path in [path for path in folder.iterdir() if path != version]:
        path.rename(version / path.name)
        (folder / path.name).symlink_to(f"..data/{path.name}")
    (folder / "..data").symlink_to(version.name)
    whole(folder)
    assert [len(each.picture.data) > 0 for each in golden.read(bundle.read(folder))] == [True, True]


def test_a_bundle_s_folder_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    whole(tmp_path / "current")


def test_a_cache_of_links_into_another_folder_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    """As caches of the Hugging Face Hub are made."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([path for path in folder.iterdir() if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(f"../blobs/{number}")
    assert "Copy the folder with the files themselves in place of links, for example by cp -rL" in refusal(folder)
    shutil.copytree(folder, tmp_path / "copy")  # which copies what links lead to
    whole(tmp_path / "copy")


@pytest.mark.parametrize("name", ["labels.txt", "weights.safetensors", "golden/answers.json", "png"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_plain_file_is_refused_at_once(
    folder: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "golden" / picture(folder) if name == "png" else folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            monkeypatch.chdir(path.parent)  # a socket's path has a hundred characters at most
            listening.bind(path.name)
    refusal(folder)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/stdin"])
def test_a_device_is_never_read(tmp_path: Path, device: str) -> None:
    with pytest.raises(BundleError, match=r"it is a (device|pipe)|more than|cannot be read"):
        bundle.read_labels(Path(device))


DEEP = "[" * 40_000
TEXTS = {
    "deep lists": f'{{"format": {DEEP}',
    "deep and closed": '{"format": ' + "[" * 500 + "]" * 500 + "}",
    "deep objects": '{"a":' * 9_000,
    "a huge number": f'{{"format": 1, "temperature": {"9" * 4000}}}',
    "a number beyond any float": '{"format": 1, "temperature": 1e999}',
    "no number": '{"format": 1, "temperature": NaN}',
    "a name twice": '{"format": 1, "format": 2}',
    "too large": " " * (bounded_files.DESCRIPTION_BYTES + 1),
    "half a character": '{"format": "\\ud800"}',
    "a list of lists": json.dumps({"format": [[1, 2]] * 1000}),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("file", ["model.json", "golden/answers.json", "labels.txt"])
def test_a_text_made_to_harm_is_refused_in_a_sentence(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    refusal(folder)


@pytest.mark.parametrize(
    "text", [*TEXTS.values(), "height = 8\nwidth = " + "9" * 400, "a" + ".a" * 20_000, "x = " + "[\n" * 20_000]
)
@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_recipe_made_to_harm_is_refused_in_a_sentence(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f"recipe.{suffix}").write_text(text)
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(BundleError, match=r"The recipe .* cannot be used") as refused:
        sources.resolve(sources.ModelSource(weights=str(tmp_path / "net.h5")))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": ["resnet20"]},
        {"labels": 7},
        {"weights": ["a"]},
        {"golden": ["golden"]},
        {"architecture": {"a": 1}},
        {"variant": [[["cifar"]]]},
        {"options": ["alpha"]},
        {"options": {"alpha": [[1]]}},
        {"weights_digest": ["sha256:0"]},
        {"temperature": True},
        {"temperature": 10**29},
        {"input_shape": [True, True, 3]},
        {"input_shape": [8.0, 8, 3]},
        {"classes": [2]},
        {"classes": "2"},
        {"classes": 2.0},
        {"format": True},
        {"format": 1.0},
        {"name": "a" * 300},
        {"metrics": {"top1": "0.9"}},
        {"metrics": {"top1": [0.9]}},
        {"novelty": {"score": "energy", "threshold": 1, "images": 1 << 32}},  # which no message can tell
        {"recipe": [["height", 8]]},
        {"recipe": {"height": 10**9, "width": 10**9}},
        {"recipe": {"height": 8, "width": 8, "crop_share": 1e-320}},
    ],
    ids=str,
)
def test_a_value_of_a_wrong_kind_is_refused_in_a_sentence(edit: Callable[..., Path], changes: dict[str, Any]) -> None:
    if changes == {"temperature": 10**29}:
        assert bundle.read(edit(**changes)).temperature == 1e29  # odd, and a number
        return
    refusal(edit(**changes))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("mnist_dnn", {"hidden": [10**6, 10**6]}, "numbers of at most 65,536. Received: 1000000"),
        ("mnist_dnn", {"hidden": [65_536] * 3}, "at most 268,435,456 weights between its layers"),
        ("mnist_dnn", {"hidden": [1] * 1001}, "at most 1,000 numbers. Received: 1,001"),
        ("resnet20", {"depths": [10**6, 1, 1]}, "numbers of at most 65,536. Received: 1000000"),
        ("resnet20", {"depths": [1999, 1, 1]}, "add up to at most 2,000 blocks. Received: 2,001"),
        ("densenet121", {"growth": 10**6}, "be at most 65,536. Received: 1000000"),
        ("xception", {"middle": 2001}, "be at most 2,000. Received: 2001"),
        ("mobilenet", {"alpha": 1e9}, "be at most 10. Received: 1000000000.0"),
        ("mobilenet", {"rho": 10.5}, "be at most 10. Received: 10.5"),
        ("basic_cnn", {"width": 10**29}, "be at most 65,536. Received: 1000"),
    ],
    ids=str,
)
def test_options_that_would_make_a_giant_are_refused(
    edit: Callable[..., Path], architecture: str, options: dict[str, Any], message: str
) -> None:
    """Where the runtime reads Keras models, the network is built in the server, which has no limits of its own."""
    variant = catalogue.find(architecture).variant
    said = refusal(edit(architecture=architecture, variant=variant, options=options))
    assert message in said
    assert len(said) < 1000


def test_a_network_that_its_weights_file_cannot_hold_is_refused_early(edit: Callable[..., Path]) -> None:
    """It has 100 million weights, of which none is made: the file has seven bytes."""
    widths = {"widths": [512, 1024, 2048]}
    with pytest.raises(BundleError, match=r"too large, also for its weights file: resnet20 would have more than 1,0"):
        serving.load_bundle(bundle.read(edit(options=widths)))


def test_a_description_without_its_number_of_classes_says_so(folder: Path) -> None:
    values = json.loads((folder / "model.json").read_text())
    del values["classes"]
    (folder / "model.json").write_text(json.dumps(values))
    assert "lacks the key 'classes'" in refusal(folder)


FIELDS = (
    *("format", "name", "version", "architecture", "variant", "options", "input_shape", "classes", "labels", "recipe"),
    *("temperature", "weights", "weights_digest", "metrics", "golden"),
)
values_of_chance = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of the embedded bundle."""
    return Path(shutil.copytree(bundle.EMBEDDED_DEFAULT, tmp_path / "shipped"))


@pytest.mark.parametrize("examples", mostly_in_ci([60, 200], 60))
def test_whatever_a_field_holds_it_is_read_or_refused(shipped: Path, examples: int) -> None:
    values = json.loads((bundle.EMBEDDED_DEFAULT / "model.json").read_text())

    @settings(max_examples=examples, deadline=None)
    @given(field=st.sampled_from(FIELDS), value=values_of_chance)
    def held(field: str, value: Any) -> None:
        (shipped / "model.json").write_text(json.dumps(values | {field: value}))
        with contextlib.suppress(BundleError):
            bundle.read(shipped)

    held()


def test_labels_without_end_are_refused(folder: Path) -> None:
    (folder / "labels.txt").write_text("a\n" * (labels.MAX_LABELS + 1))
    assert "at most 100,000 classes" in refusal(folder)
    (folder / "labels.txt").write_text("a" * 5_000)
    assert "line 1 of the labels has more than 1,000 characters" in refusal(folder)
    with (folder / "labels.txt").open("wb") as file:
        file.truncate(1 << 40)  # of which the disk holds nothing
    assert "more than 16,777,216 bytes" in refusal(folder)


def test_golden_pictures_are_bounded_in_number_and_bytes(
    edit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def many(number: int) -> Path:
        folder = edit()
        one = {"file": picture(folder), "probabilities": [0.9, 0.1]}
        return edit("golden/answers.json", pictures=[one] * number)

    whole(many(golden.MAX_PICTURES))
    assert "65 pictures; at most 64 are allowed" in refusal(many(golden.MAX_PICTURES + 1))
    monkeypatch.setattr(golden, "PICTURES_BYTES", 10_000)
    assert "more than" in refusal(many(golden.MAX_PICTURES))
    monkeypatch.setattr(golden, "PICTURE_BYTES", 100)
    assert "more than 100 bytes" in refusal(many(1))


def test_recording_never_empties_a_folder_elsewhere(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text("kept")
    found = bundle.read(folder)
    shutil.rmtree(folder / "golden")
    (folder / "golden").symlink_to(elsewhere)
    with pytest.raises(BundleError, match="must lie in its folder"):
        golden.record(found, pixels_count, golden.pictures(bundle.EMBEDDED_DEFAULT)[:1], by="a test")
    assert [path.name for path in elsewhere.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(("name", "setting"), [("labels.txt", "GLIMPSE_LABELS"), ("recipe.toml", "GLIMPSE_RECIPE")])
def test_a_link_beside_a_weights_file_is_followed_within_its_folder(tmp_path: Path, name: str, setting: str) -> None:
    """What an operator names is read wherever it lies; what is found beside it, somebody else may have chosen."""
    folder = tmp_path / "from-somebody"
    folder.mkdir()
    (folder / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "labels.txt").write_text("cat\n")
    (folder / "recipe.toml").write_text("height = 8\nwidth = 8\n")
    (folder / name).rename(folder / "inner")
    (folder / name).symlink_to("inner")
    source = sources.ModelSource(weights=str(folder / "net.h5"))
    assert sources.resolve(source).labels == (ClassLabel("cat"),)
    (folder / "inner").rename(tmp_path / "outer")
    (folder / name).unlink()
    (folder / name).symlink_to("../outer")
    with pytest.raises(BundleError, match=f"must lie in its folder.*or give the path of the file with {setting}"):
        sources.resolve(source)
    outer = tmp_path / "outer"
    named = replace(source, labels=outer) if name == "labels.txt" else replace(source, recipe=outer)
    assert sources.resolve(named).labels == (ClassLabel("cat"),)


def test_a_pipe_is_never_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights")
    with pytest.raises(BundleError, match="it is a named pipe, not a file"):
        digests.digest(tmp_path / "weights")
