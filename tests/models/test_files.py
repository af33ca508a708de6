"""Which files of a folder or a zip are images to train on, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.client.commands import find_images as images
from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train import files
from glimpse.models.train.data import read

RECIPE = Recipe(height=8, width=8)
LEFT_OUT = [
    "a/.ipynb_checkpoints/1-checkpoint.png",
    ".git/a/1.png",
    "__MACOSX/a/1.png",
    "__MACOSX/a/._1.png",
    "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/a/1.png",
    "$RECYCLE.BIN/a/1.png",
    "System Volume Information/a/1.png",
    "RECYCLER/a/1.png",
    "lost+found/1.png",
    "@Recycle/a/1.png",
    "@Recently-Snapshot/a/1.png",
    "#snapshot/a/1.png",
    "a/._2.jpg",
    "a/.hidden.png",
    "a/Thumbs.db",
    "a/.DS_Store",
    "a/notes.txt",
    ".Trash/b/1.png",
]
KEPT = ["a/1.png", "a/2.JPG", "b/1.png", "deep/below/c/1.png", "x.png/1.png", "a.b/1.png", "@home/1.png"]


def png(seed: int = 0) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def folder_of(names: list[str], folder: Path) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return folder


def zip_of(names: list[str], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted({str(Path(name).parent) for name in names}):
            archive.mkdir(name)
        for name in names:
            archive.writestr(name, png())
    return path


def names_in(path: Path) -> list[str]:
    with files.open_images(path, SUFFIXES) as found:
        return [file.name for file in found]


def test_a_folder_its_zip_and_the_client_find_the_same_files(tmp_path: Path) -> None:
    folder = folder_of(KEPT + LEFT_OUT, tmp_path / "images")
    assert sorted(names_in(folder)) == sorted(KEPT)
    assert sorted(names_in(zip_of(KEPT + LEFT_OUT, tmp_path / "images.zip"))) == sorted(KEPT)
    assert sorted(os.path.relpath(path, folder) for path in images.find([str(folder)])) == sorted(KEPT)
    pattern = [os.path.relpath(path, folder) for path in images.find([str(folder / "**" / "*.png")])]
    assert sorted(pattern) == sorted(name for name in KEPT if name.endswith(".png"))


def test_both_sides_leave_the_same_folders_out() -> None:
    assert files.SYSTEM_FOLDERS == images.SYSTEM_FOLDERS


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    found = read(folder_of(["a/1.png", "b/1.png", *LEFT_OUT], tmp_path / "images"), RECIPE)
    assert (found.labels, len(found)) == (("a", "b"), 2)


def test_folders_without_an_image_are_known_of(tmp_path: Path) -> None:
    names = ["a/1.png", "b/below/1.png", "c/1.heic", "d/e/notes.txt", "a/notes/1.txt", ".git/x/y", "@eaDir/z/1.png"]
    folder, archive = folder_of(names, tmp_path / "images"), zip_of(names, tmp_path / "images.zip")
    (folder / "f").mkdir()
    for path, expected in ((folder, ("a/notes", "c", "d", "f")), (archive, ("a/notes", "c", "d"))):
        images = read(path, RECIPE)
        assert images.labels == ("a", "below")
        assert images.empty == expected


def test_a_pipe_is_not_waited_for_and_a_broken_link_is_named(tmp_path: Path) -> None:
    folder = folder_of(["a/1.png"], tmp_path)
    os.mkfifo(folder / "a" / "2.png")
    assert names_in(folder) == ["a/1.png"]
    (folder / "a" / "3.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"a/3\.png cannot be read: No such file or directory"):
        read(folder, RECIPE)


def test_a_class_may_be_a_link_to_a_folder_elsewhere(tmp_path: Path) -> None:
    folder_of(["cats/1.png", "cats/young/2.png"], tmp_path / "elsewhere")
    folder = folder_of(["dog/1.png", ".kept/birds/1.png"], tmp_path / "images")
    (folder / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    (folder / "bird").symlink_to(".kept/birds")
    assert names_in(folder) == ["bird/1.png", "cat/1.png", "cat/young/2.png", "dog/1.png"]
    assert read(folder, RECIPE).empty == ()


def test_links_to_folders_find_nothing_twice_and_come_to_an_end(tmp_path: Path) -> None:
    folder = folder_of(["images/a/1.png", "images/b/2.png", "other/c/3.png"], tmp_path) / "images"
    (folder / "latest").symlink_to("b")
    (folder / "a" / "all").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path)
    (tmp_path / "other" / "back").symlink_to(folder)
    (tmp_path / "other" / "c" / "again").symlink_to(tmp_path / "other")
    assert names_in(folder) == ["a/1.png", "above/other/c/3.png", "b/2.png"]


@pytest.mark.parametrize(
    ("stored", "label"), [(b"cafe\xcc\x81", "café"), (b"caf\xc3\xa9", "café"), (b"caf\x82", "café")]
)
def test_a_name_is_the_same_from_any_system_and_archiver(stored: bytes, label: str, tmp_path: Path) -> None:
    """Of a Mac, of Linux, and of DOS; none of the archives says that its names are in UTF-8."""
    place = "~" * len(stored)
    archive = zip_of([f"{place}/1.png", "tea/1.png"], tmp_path / "images.zip")
    archive.write_bytes(archive.read_bytes().replace(place.encode(), stored))
    assert read(archive, RECIPE).labels == (label, "tea")
    folder = folder_of(["cafe\u0301/1.png", "tea/1.png"], tmp_path / "images")
    assert read(folder, RECIPE, read(archive, RECIPE).labels).classes.tolist() == [0, 1]
    assert read(folder, RECIPE).empty == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    folder = folder_of(["a/1.png", "b/1.png"], tmp_path)
    (folder / "b").chmod(0)
    with pytest.raises(PermissionError):
        read(folder, RECIPE)


def test_names_of_other_systems_are_understood(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("set\\a\\1.png", "/abs/b/1.png", "./c/1.png"):
            archive.writestr(name, png())
    assert names_in(tmp_path / "images.zip") == ["c/1.png", "abs/b/1.png", "set/a/1.png"]


@pytest.mark.parametrize("name", ["../a/1.png", "a/../../1.png", "a\\..\\1.png"])
def test_a_name_that_leads_out_of_the_zip_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(name, png())
    with pytest.raises(ValueError, match="points outside of it"):
        read(tmp_path / "images.zip", RECIPE)


def patched(path: Path, *, flags: int = 0, method: int | None = None) -> Path:
    """A zip whose headers say that its entries are encrypted or packed otherwise."""
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            struct.pack_into("<H", data, at + place, struct.unpack_from("<H", data, at + place)[0] | flags)
            if method is not None:
                struct.pack_into("<H", data, at + place + 2, method)
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    return path


def test_an_encrypted_zip_is_told_of(tmp_path: Path) -> None:
    archive = patched(zip_of(["a/1.png", "b/1.png"], tmp_path / "images.zip"), flags=1)
    with pytest.raises(
        ValueError,
        match=r"2 images cannot be read: a/1\.png, b/1\.png\. Each is encrypted\. Create .* --skip-unreadable$",
    ):
        read(archive, RECIPE)


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (97, "method 97")])
def test_a_packing_that_python_does_not_know_is_told_of(method: int, name: str, tmp_path: Path) -> None:
    archive = patched(zip_of(["a/1.png"], tmp_path / "images.zip"), method=method)
    with pytest.raises(ValueError, match=rf"a/1\.png is compressed with a method .*: {name}\..* Deflate"):
        read(archive, RECIPE)


def test_a_damaged_entry_is_told_of(tmp_path: Path) -> None:
    archive = zip_of(["a/1.png", "b/1.png"], tmp_path / "images.zip")
    data = bytearray(archive.read_bytes())
    data[data.find(b"IDAT") + 10] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"a/1\.png is damaged in the zip file: Bad CRC-32"):
        read(archive, RECIPE)


def test_an_entry_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"a/1\.png has more than 100,000 bytes"):
        read(tmp_path / "images.zip", RECIPE)
    folder = folder_of(["a/1.png"], tmp_path / "images")
    (folder / "a" / "1.png").write_bytes(bytes(100_001))
    with pytest.raises(ValueError, match=r"a/1\.png has more than 100,000 bytes"):
        read(folder, RECIPE)


def test_a_giant_picture_is_named_like_a_damaged_one(tmp_path: Path) -> None:
    folder = folder_of(["a/1.png"], tmp_path)
    Image.new("1", (14_000, 14_000)).save(folder / "a" / "2.png")
    said = (
        r"a/2\.png cannot be decoded: An image may have at most 180,000,000 pixels\. "
        r"Received: 14000 x 14000 = 196,000,000\."
    )
    with pytest.raises(ValueError, match=said):
        read(folder, RECIPE)


def test_all_unreadable_images_are_named_but_no_more_than_fit(tmp_path: Path) -> None:
    folder = folder_of(["a/1.png", "b/1.png"], tmp_path)
    for number in range(30):
        (folder / "b" / f"bad{number:02}.png").write_bytes(b"no picture" if number else png()[:60])
    with pytest.raises(ValueError) as refused:
        read(folder, RECIPE)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{folder}: 30 images cannot be read:"
    assert [line.split()[0] for line in lines[1:21]] == [f"b/bad{number:02}.png" for number in range(20)]
    assert lines[21:] == ["  and 10 more.", "Remove or repair them, or skip them with --skip-unreadable"]


def test_unreadable_images_are_left_out_on_demand(tmp_path: Path) -> None:
    folder = folder_of(["a/1.png", "b/1.png", "c/1.png"], tmp_path)
    (folder / "b" / "0.png").write_bytes(b"no picture")
    (folder / "c" / "1.png").write_bytes(b"")
    found = read(folder, RECIPE, skip_unreadable=True)
    assert (found.labels, found.classes.tolist(), len(found.pixels)) == (("a", "b"), [0, 1], 2)
    assert [name for name, _ in found.left_out] == ["b/0.png", "c/1.png"]
    assert found.empty == ("c",)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"has no images in folders named after their classes\. 4 images cannot be read"
    ):
        read(folder, RECIPE, skip_unreadable=True)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(17), b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_whole_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(ValueError, match="neither a folder nor a valid zip"):
        read(tmp_path / "images.zip", RECIPE)
