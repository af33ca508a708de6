"""From the arguments of a command line to the images they name."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest

from glimpse.client.commands import find_images as images
from glimpse.client.commands.find_images import find
from glimpse.models.decoding import formats


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder holds some photos."""
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "deep/er/c.webp",
        ".cache/d.jpg",
        "empty/x.txt",
        "[1].jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        pytest.param(["b.jpg", "./b.jpg"], ["b.jpg", "./b.jpg"], id="a file stays as it was typed"),
        pytest.param(["notes.txt"], ["notes.txt"], id="a file that is named is sent whatever its name"),
        pytest.param(["deep"], ["deep/er/c.webp"], id="a folder is searched to its bottom"),
        pytest.param(["."], ["./[1].jpg", "./a.PNG", "./b.jpg", "./deep/er/c.webp"], id="but not for hidden names"),
        pytest.param(["*.jpg"], ["[1].jpg", "b.jpg"], id="a pattern"),
        pytest.param(["**/*.webp"], ["deep/er/c.webp"], id="a pattern through all folders"),
        pytest.param(["dee*"], ["deep/er/c.webp"], id="a pattern that matches a folder"),
        pytest.param(["[1].jpg"], ["[1].jpg"], id="a file that is named like a pattern"),
        pytest.param(["gone.jpg"], ["gone.jpg"], id="a missing file is left to its reader"),
        pytest.param(["*.gif"], ["*.gif"], id="a pattern without a match likewise"),
        pytest.param(["empty"], ["empty"], id="a folder without an image likewise"),
        pytest.param(["-"], ["-"], id="the standard input"),
        pytest.param(["b.jpg", "deep", "-"], ["b.jpg", "deep/er/c.webp", "-"], id="all in the order given"),
    ],
)
def test_arguments_lead_to_images(arguments: list[str], found: list[str]) -> None:
    assert list(find(arguments)) == found


def test_a_folder_is_searched_for_what_the_server_decodes_and_training_reads() -> None:
    """A folder is searched for all that the server decodes and training reads, and for nothing else."""
    assert set(images.SUFFIXES) == formats.SUFFIXES
    assert len(images.SUFFIXES) == len(formats.SUFFIXES)


@pytest.mark.parametrize("suffix", sorted(formats.SUFFIXES))
def test_every_suffix_is_found_in_a_folder_in_any_case(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for name in (f"a{suffix}", f"b{suffix.upper()}", f"c{suffix}.txt", f"d{suffix[1:]}"):
        (folder / name).touch()
    assert list(find(["all"])) == [f"all/a{suffix}", f"all/b{suffix.upper()}"]


def test_a_pipe_is_no_image_of_a_folder_and_a_broken_link_is_left_to_its_reader(
    tmp_path: Path,
) -> None:
    """What would be waited for is no image of a folder, and a broken link is left to whoever reads it."""
    os.mkfifo(tmp_path / "deep" / "pipe.jpg")
    (tmp_path / "deep" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "deep" / "link.jpg").symlink_to("../b.jpg")
    assert list(find(["deep"])) == ["deep/gone.jpg", "deep/link.jpg", "deep/er/c.webp"]
    assert list(find(["dee?/*.jp?"])) == ["deep/gone.jpg", "deep/link.jpg"]
    assert list(find(["deep/pipe.jpg"])) == ["deep/pipe.jpg"], "whoever names a pipe may write into it"


def test_a_folder_is_read_only_as_far_as_images_are_asked_for(tmp_path: Path) -> None:
    images = find([".", "gone.jpg"])
    assert next(images) == "./[1].jpg"
    (tmp_path / "deep" / "er" / "later.jpg").touch()
    assert "./deep/er/later.jpg" in list(images)


@pytest.mark.parametrize("portion", [1, 2, 3, 100])
def test_a_folder_of_any_size_is_read_in_portions_and_stays_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    names = [f"many/{folder}{number}.jpg" for folder in ("", "a/", "b/", "b/c/") for number in range(6)]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(images, "PORTION", portion)
    assert list(find(["many"])) == names


def test_a_very_deep_folder_is_searched_to_its_bottom() -> None:
    depth = 150
    Path("/".join("d" * depth)).mkdir(parents=True)
    Path(*"d" * depth, "a.jpg").touch()
    frames = len(inspect.stack())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(frames + 60)  # fewer than there are folders in one another
    try:
        found = list(find(["d"]))
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["/".join(["d"] * depth) + "/a.jpg"]


def test_a_folder_that_cannot_be_read_is_left_to_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: str) -> object:  # whoever runs the tests may be allowed everything
        if path == "./deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert list(find(["."])) == ["./[1].jpg", "./a.PNG", "./b.jpg", "./deep"]


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    assert list(find([".", "deep"], leave_out="./empty/../deep/")) == [
        "./[1].jpg",
        "./a.PNG",
        "./b.jpg",
        "deep/er/c.webp",
    ]
    assert list(find(["dee*"], leave_out="deep/er")) == ["dee*"]
