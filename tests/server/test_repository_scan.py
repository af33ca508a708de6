"""What is found in a repository of models, and what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from glimpse.server.batching.device import SharedDevice
from glimpse.server.domain import ClassChoice
from glimpse.server.repository import aliases
from glimpse.server.repository import scan as scanning
from glimpse.server.repository.model_file import ModelFile
from glimpse.server.repository.scan import scan, weights_in
from glimpse.server.settings import Settings
from tests.server.repositories import add


def test_versions_are_found_by_their_numbers_the_oldest_first(tmp_path: Path) -> None:
    for version in (10, 9, 2):
        add(tmp_path, version)
    found = scan(tmp_path)["cifar"]
    assert [(each.version, each.problem, each.incomplete) for each in found.versions] == [
        ("2", "", ""),
        ("9", "", ""),
        ("10", "", ""),
    ]
    assert found.file == ModelFile()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("01", "01 has the same number as 1, which is another version."),
        ("07", "07 must be written as 7, without zeros in front."),
        ("0", "'0' is not a version: a version is a positive integer"),
        ("v2", "'v2' is not a version"),
        ("-1", "'-1' is not a version"),
        ("1.5", "'1.5' is not a version"),
    ],
)
def test_a_folder_that_is_no_version_is_told_why(tmp_path: Path, name: str, said: str) -> None:
    add(tmp_path, 1)
    add(tmp_path, name)
    problems = {each.version: each.problem for each in scan(tmp_path)["cifar"].versions}
    assert said in problems[name]
    assert problems["1"] == ""  # it goes on as it was


@pytest.mark.parametrize("name", ["a..b", "-a", "a b", "ä", "a" * 201])
def test_a_name_that_no_model_can_have_is_told_why(tmp_path: Path, name: str) -> None:
    add(tmp_path, 1, name)
    found = scan(tmp_path)[name]
    assert found.versions == ()
    assert "cannot be the name of a model" in found.problem


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, ".2")
    add(tmp_path, 1, ".hidden")
    assert {name: len(model.versions) for name, model in scan(tmp_path).items()} == {"cifar": 1}


@pytest.mark.parametrize("file", ["weights.safetensors.part", ".weights.safetensors.Ab3Xyz", "weights.tmp"])
def test_a_version_with_a_file_half_copied_is_not_complete(tmp_path: Path, file: str) -> None:
    folder = add(tmp_path, 1)
    (folder / file).write_bytes(b"half")
    (version,) = scan(tmp_path)["cifar"].versions
    assert version.incomplete == f"{file} is still being copied."


def test_an_empty_version_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "cifar" / "1").mkdir(parents=True)
    (version,) = scan(tmp_path)["cifar"].versions
    assert version.incomplete == "Its folder is empty."


def test_a_link_out_of_the_repository_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    add(root, 1)
    add(elsewhere, 2)
    (root / "cifar" / "2").symlink_to(elsewhere / "cifar" / "2")
    (root / "cifar" / "3").symlink_to("1")
    (root / "other").symlink_to(elsewhere / "cifar")
    found = scan(root)
    problems = {each.version: each.problem for each in found["cifar"].versions}
    assert "leads out of the repository" in problems["2"]
    assert problems["1"] == problems["3"] == ""
    assert "leads out of the repository" in found["other"].problem


@pytest.mark.parametrize("leads_to", ["file", "folder", "nothing"])
def test_a_link_in_a_version_that_leads_out_is_refused(tmp_path: Path, leads_to: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    version = add(root, 1)
    add(root, 2)
    elsewhere.mkdir()
    (elsewhere / "file").write_text("secret = 1", encoding="utf-8")
    (elsewhere / "folder").mkdir()
    (version / "deep").mkdir()
    (version / "deep" / "link").symlink_to(elsewhere / leads_to)
    problems = {each.version: each.problem for each in scan(root)["cifar"].versions}
    assert str(version / "deep" / "link") in problems["1"]
    assert "leads out of the repository" in problems["1"]
    assert not problems["2"]


def test_a_link_in_a_version_to_another_of_its_files_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts files as such links, and the Hugging Face Hub's cache has them."""
    version = add(tmp_path, 1)
    weights = next(version.glob("*.safetensors"))
    weights.rename(tmp_path / "cifar" / "blob")
    weights.symlink_to("../blob")
    before = scan(tmp_path)["cifar"].versions[0]
    assert not before.problem
    (tmp_path / "cifar" / "blob").write_bytes(b"others")
    assert scan(tmp_path)["cifar"].versions[0].stamp != before.stamp


def test_no_more_of_a_version_is_looked_at_than_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar" / "1"
    for number in range(50):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "file").touch()
    monkeypatch.setattr(scanning, "_MOST_FILES", 60)
    looked: list[str] = []
    scandir = os.scandir

    def look(path: str) -> object:
        looked.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)
    (version,) = scan(tmp_path)["cifar"].versions
    assert version.problem.endswith("it has more than 60 files and folders.")
    assert sum(Path(path).parent == folder for path in looked) < 15


def test_a_repository_may_be_a_link_itself(tmp_path: Path) -> None:
    add(tmp_path / "there", 1)
    (tmp_path / "here").symlink_to("there")
    (version,) = scan(tmp_path / "here")["cifar"].versions
    assert version.problem == ""


def test_a_change_of_any_file_or_setting_changes_the_stamp(tmp_path: Path) -> None:
    folder = add(tmp_path, 1)

    def stamp() -> object:
        return scan(tmp_path)["cifar"].versions[0].stamp

    first = stamp()
    assert stamp() == first
    (folder / "labels.txt").write_text((folder / "labels.txt").read_text() + "\n")
    second = stamp()
    assert second != first
    (tmp_path / "cifar" / "model.toml").write_text("max_batch_size = 2\n")
    third = stamp()
    assert third != second
    (tmp_path / "cifar" / "model.toml").write_text("max_batch_size = 2\nkeep = 3\n")  # not of how it is loaded
    assert stamp() == third
    (tmp_path / "cifar" / "model.toml").write_text("max_batch_size = 2\ncompute_streams = 1\n")
    assert stamp() not in {first, second, third}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runtme = 'auto'", "runtme is not a key of this file. Did you mean runtime"),
        ("keep = 0", "keep: Input should be greater than or equal to 1"),
        ("compute_streams = -1", "compute_streams: Input should be greater than or equal to 0"),
        ("keep = ", "model.toml cannot be used"),
    ],
)
def test_settings_that_cannot_be_are_a_problem_of_the_model(tmp_path: Path, text: str, said: str) -> None:
    add(tmp_path, 1)
    (tmp_path / "cifar" / "model.toml").write_text(text)
    assert said in scan(tmp_path)["cifar"].problem


def test_aliases_are_read_and_written(tmp_path: Path) -> None:
    add(tmp_path, 1)
    aliases.write(tmp_path / "cifar", {"stable": "1", "canary": "12"})
    assert scan(tmp_path)["cifar"].aliases == {"stable": "1", "canary": "12"}
    assert sorted(each.name for each in (tmp_path / "cifar").iterdir()) == ["1", "aliases.toml"]


@pytest.mark.parametrize("text", ["latest = 1", "Stable = 1", "stable = 'one'", "stable = 0", '"2" = 1'])
def test_aliases_that_cannot_be_are_a_problem_of_the_model(tmp_path: Path, text: str) -> None:
    add(tmp_path, 1)
    (tmp_path / "cifar" / "aliases.toml").write_text(text)
    assert "aliases.toml cannot be used" in scan(tmp_path)["cifar"].problem


def test_the_weights_of_a_version_are_a_bundle_or_its_only_weights_file(tmp_path: Path) -> None:
    bundle = add(tmp_path, 1)
    assert weights_in(bundle) == bundle
    inner = tmp_path / "inner"
    shutil.copytree(bundle, inner / "my_bundle")
    assert weights_in(inner) == inner / "my_bundle"
    single = tmp_path / "single"
    single.mkdir()
    for name in ("net.onnx", "net.onnx.data", "labels.txt", "recipe.toml", "README.md"):
        (single / name).write_bytes(b"x")
    assert weights_in(single) == single / "net.onnx"
    (single / "other.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has 2 files that could be weights: net\.onnx, other\.onnx"):
        weights_in(single)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no weights file"):
        weights_in(tmp_path / "nothing")


def test_a_list_of_models_names_folders_and_weights(tmp_path: Path) -> None:
    add(tmp_path / "there", 3)
    listing = tmp_path / "models.toml"
    listing.write_text(
        '[photos]\npath = "there/cifar"\nkeep = 2\n[small]\nweights = "cifar10"\nversion = 5\n'
        '[neither]\nkeep = 1\n["a..b"]\nweights = "cifar10"\n'
    )
    found = scan(listing)
    assert [each.version for each in found["photos"].versions] == ["3"]
    assert (found["photos"].file.keep, found["photos"].folder) == (2, tmp_path / "there" / "cifar")
    assert [(each.version, each.path) for each in found["small"].versions] == [("5", None)]
    assert "needs either path, a folder of versions, or weights" in found["neither"].problem
    assert "cannot be the name of a model" in found["a..b"].problem


def test_a_repository_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone")
    listing = tmp_path / "models.toml"
    listing.write_text("[photos")
    with pytest.raises(ValueError, match="table declaration"):
        scan(listing)


def test_the_description_of_the_small_model_is_that_of_a_bundle(tmp_path: Path) -> None:
    assert json.loads((add(tmp_path, 1) / "model.json").read_text())["name"] == "se_resnet20_cifar10"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("", ClassChoice(("cat",), ("dog",))),
        ("allow_classes = ['ship', 'frog']", ClassChoice(("ship", "frog"))),
        ("deny_classes = ['ship']", ClassChoice((), ("ship",))),
        ("allow_classes = []", ClassChoice()),
    ],
)
def test_classes_of_one_model_are_as_its_file_says(tmp_path: Path, text: str, classes: ClassChoice) -> None:
    """A model with a choice of its own has nothing of that of the server."""
    add(tmp_path, 1)
    (tmp_path / "cifar" / "model.toml").write_text(text)
    chosen = Settings(allow_classes=("cat",), deny_classes=("dog",))  # type: ignore[call-arg]  # all have defaults
    options = scan(tmp_path)["cifar"].file.load_options(chosen, SharedDevice(4))
    assert options.classes == classes
    assert options.own_classes == (classes if text else None)


@pytest.mark.parametrize(("text", "streams"), [("", 2), ("compute_streams = 1", 1), ("compute_streams = 0", 0)])
def test_streams_of_one_model_are_as_its_file_says(
    tmp_path: Path, text: str, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves out is as the server's settings say, and 0 has them measured."""
    monkeypatch.setattr("glimpse.server.machine.cores.available", lambda: 4)
    add(tmp_path, 1)
    (tmp_path / "cifar" / "model.toml").write_text(text)
    chosen = Settings(compute_streams=2)  # type: ignore[call-arg]  # all have defaults
    options = scan(tmp_path)["cifar"].file.load_options(chosen, SharedDevice(4))
    assert options.streams == streams
