"""LabelledImages images: reading, holding out, augmenting, batching."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glimpse.models.decoding.formats import SUFFIXES
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.augment import augment, cutmix
from glimpse.models.train.data import Batches, LabelledImages, hold_out, read, statistics
from tests.server.files import encoded

from .conftest import zipped

RECIPE = Recipe(height=8, width=8)


def labelled(per_class: list[int]) -> LabelledImages:
    """Images whose pixels tell their index."""
    classes = np.repeat(np.arange(len(per_class)), per_class)
    pixels = np.broadcast_to(np.arange(len(classes), dtype=np.uint8)[:, None, None, None], (len(classes), 4, 4, 3))
    return LabelledImages(pixels, classes, tuple("abcdefgh"[: len(per_class)]))


def indices(images: LabelledImages) -> list[int]:
    return [int(image[0, 0, 0]) for image in images.pixels]


def test_a_folder_and_its_zip_hold_the_same_images(patches: Path, tmp_path: Path) -> None:
    folder, archive = read(patches, RECIPE), read(zipped(patches, tmp_path / "images.zip"), RECIPE)
    assert folder.labels == archive.labels == ("blue", "green", "red")
    assert len(folder) == 36
    assert folder.pixels.shape == (36, 8, 8, 3)
    assert np.bincount(folder.classes).tolist() == [12, 12, 12]
    np.testing.assert_array_equal(folder.pixels, archive.pixels)
    np.testing.assert_array_equal(folder.classes, archive.classes)
    assert folder.contents == archive.contents


def test_a_copy_with_other_times_and_names_has_the_same_contents(patches: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(patches, tmp_path / "copy")
    for file in copy.rglob("*.png"):
        os.utime(file, (0, 0))
    (copy / "red" / "011.png").rename(copy / "red" / "last.png")  # it stays the last one
    assert read(copy, RECIPE).contents == read(patches, RECIPE).contents


@pytest.mark.parametrize("change", ["another image", "another order", "another class", "as many elsewhere"])
def test_other_images_of_the_same_number_have_other_contents(patches: Path, tmp_path: Path, change: str) -> None:
    copy = shutil.copytree(patches, tmp_path / "copy")
    if change == "another image":
        Image.new("RGB", (12, 12)).save(copy / "red" / "003.png")
    elif change == "another order":
        (copy / "red" / "003.png").rename(copy / "red" / "zzz.png")
    elif change == "another class":
        (copy / "blue" / "011.png").rename(copy / "green" / "000.jpg")  # whose place in the order stays the same
        (copy / "green" / "000.png").rename(copy / "blue" / "zzz.png")
    else:
        (copy / "red" / "003.png").unlink()
        shutil.copy(copy / "red" / "004.png", copy / "blue" / "004b.png")
    assert read(copy, RECIPE).contents != read(patches, RECIPE).contents


def test_classes_follow_the_given_order(patches: Path) -> None:
    images = read(patches, RECIPE, ["red", "green", "grey", "blue"])
    # Files are read by name: blue first.
    assert images.classes[[0, 12, 24]].tolist() == [3, 1, 0]


def test_a_class_that_the_model_lacks_is_named(patches: Path) -> None:
    with pytest.raises(ValueError, match="classes that the model does not have: blue, green"):
        read(patches, RECIPE, ["red"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images in folders named after their classes"):
        read(tmp_path, RECIPE)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.zip", RECIPE)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="neither a folder nor a valid zip"):
        read(tmp_path / "images.zip", RECIPE)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(ValueError, match=r"cat/1\.jpg cannot be decoded"):
        read(tmp_path, RECIPE)


def test_an_image_outside_of_any_class_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png is not in a folder"):
        read(tmp_path, RECIPE)


def test_shadow_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "._1.png").write_bytes(b"shadow")
    (tmp_path / "cat" / "notes.txt").write_text("a cat")
    assert len(read(tmp_path, RECIPE)) == 1


def test_every_suffix_of_a_format_that_is_served_is_read_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number, suffix in enumerate(sorted(SUFFIXES)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "cat" / f"{number}{suffix}", "PNG")
        Image.new("RGB", (4, 4), (number, 1, 0)).save(tmp_path / "cat" / f"{number}{suffix.upper()}", "PNG")
    assert len(read(tmp_path, RECIPE)) == 2 * len(SUFFIXES)


@pytest.mark.parametrize(
    ("form", "options", "reason"),
    [("TIFF", {}, "TIFF is not accepted"), ("BMP", {"compression": 1}, "run lengths is not accepted")],
)
def test_what_the_server_would_refuse_is_refused_with_its_reason(
    tmp_path: Path, form: str, options: dict[str, int], reason: str
) -> None:
    file = tmp_path / "cat" / "1.bmp"
    file.parent.mkdir()
    Image.new("L", (4, 4)).save(file, form)
    if options:
        data = bytearray(file.read_bytes())
        data[30] = options["compression"]
        file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"cat/1\.bmp cannot be decoded: .*{reason}"):
        read(tmp_path, RECIPE)


def test_a_giant_picture_is_refused_before_memory_is_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    data = bytearray(encoded("PNG", Image.new("RGB", (4, 4))))
    data[16:24] = (60_000).to_bytes(4) + (60_000).to_bytes(4)
    (tmp_path / "cat" / "1.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"cat/1\.png cannot be decoded: An image may have at most 180,000,000 pixels"):
        read(tmp_path, RECIPE)


def test_hold_out_takes_the_same_share_of_every_class() -> None:
    rest, held_out = hold_out(labelled([20, 20, 20, 20]), 8, seed=1)
    assert np.bincount(held_out.classes).tolist() == [2, 2, 2, 2]
    assert sorted(indices(rest) + indices(held_out)) == list(range(80))


@pytest.mark.parametrize(("count", "held"), [(11, [10, 1, 0]), (22, [20, 2, 0]), (108, [99, 9, 0])])
def test_hold_out_takes_its_share_of_a_small_class_and_never_all_of_it(count: int, held: list[int]) -> None:
    images = labelled([100, 10, 1])
    rest, held_out = hold_out(images, count, seed=1)
    assert np.bincount(held_out.classes, minlength=3).tolist() == held
    assert sorted(indices(rest) + indices(held_out)) == list(range(111))


def test_hold_out_of_an_older_run_takes_as_many_of_every_class() -> None:
    assert np.bincount(hold_out(labelled([100, 10, 4]), 18, 1, "equal")[1].classes).tolist() == [7, 7, 4]
    same = labelled([20, 20])
    assert indices(hold_out(same, 9, 1, "equal")[1]) == indices(hold_out(same, 9, 1)[1])


def test_hold_out_is_decided_by_the_seed() -> None:
    images = labelled([30, 30])
    splits = [indices(hold_out(images, 10, seed)[1]) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("count", [-1, 6])
def test_hold_out_leaves_something_to_train_on(count: int) -> None:
    with pytest.raises(ValueError, match=f"less than the number of images, 6. Received: {count}"):
        hold_out(labelled([3, 3]), count, 0)


def test_statistics_are_those_of_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8) // [1, 2, 4]
    images = LabelledImages(pixels.astype(np.uint8), np.zeros(20, np.int64), ("a",))
    mean, std = statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=0.051)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), atol=0.051)


def test_statistics_refuse_a_channel_without_contrast() -> None:
    images = LabelledImages(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64), ("a",))
    with pytest.raises(ValueError, match=r"equal in a channel.* Give --mean and --std"):
        statistics(images)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 20), width=st.integers(1, 20))
def test_augmenting_shifts_and_mirrors_and_does_nothing_else(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 256, (3, height, width, 3), np.uint8)
    before = pixels.copy()
    out = augment(pixels, np.random.default_rng(seed), fill=(0, 0, 0))
    np.testing.assert_array_equal(pixels, before)
    assert out.dtype == np.uint8
    dy, dx = height // 8, width // 8
    for image, result in zip(pixels, out, strict=True):
        padded = np.pad(image, ((dy, dy), (dx, dx), (0, 0)), mode="reflect")
        crops = [padded[t : t + height, x : x + width] for t in range(2 * dy + 1) for x in range(2 * dx + 1)]
        assert any(np.array_equal(result, c) or np.array_equal(result, c[:, ::-1]) for c in crops)


def test_augmenting_reaches_every_shift_and_both_mirrors() -> None:
    pixels = np.zeros((4000, 16, 16, 3), np.uint8)
    pixels[:, 8, 7] = 255  # mirrored it lies in column 8
    out = augment(pixels, np.random.default_rng(0))
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in out}
    assert places == {(row, column) for row in range(6, 11) for column in range(5, 11)}


def test_augmenting_shifts_in_nothing_that_was_not_in_the_image() -> None:
    out = augment(np.full((200, 16, 16, 3), 200, np.uint8), np.random.default_rng(0), fill=(1, 2, 3))
    assert (out == 200).all()


def test_cutout_fills_with_the_pre_stem_s_padding() -> None:
    out = augment(np.full((200, 16, 16, 3), 200, np.uint8), np.random.default_rng(0), fill=(1, 2, 3), cutout=0.25)
    assert {tuple(map(int, value)) for value in out.reshape(-1, 3)} == {(200, 200, 200), (1, 2, 3)}


def test_cutout_blanks_one_square_of_every_image_and_changes_nothing_else() -> None:
    pixels = np.full((300, 32, 32, 3), 200, np.uint8)
    plain = augment(pixels, np.random.default_rng(7), fill=(1, 2, 3))
    cut = augment(pixels, np.random.default_rng(7), fill=(1, 2, 3), cutout=0.25)
    blanked = (cut != plain).any(axis=-1)
    whole = np.zeros(300, bool)
    for image, mask, result in zip(plain, blanked, cut, strict=True):
        rows, columns = np.nonzero((result == (1, 2, 3)).all(axis=-1) & (image == 200).all(axis=-1))
        assert (mask.sum() == 0) or (np.ptp(rows) < 8 and np.ptp(columns) < 8)
    for i, mask in enumerate(blanked):
        whole[i] = mask.sum() == 64
    assert whole.mean() > 0.4  # the others reach over an edge
    assert (blanked.sum(axis=(1, 2)) > 0).mean() > 0.9


def test_the_last_batch_may_be_filled_with_the_first_images_of_the_epoch() -> None:
    images = labelled([10, 11])
    plain = Batches(images, batch_size=8, seed=1, epoch=0, fill=(0, 0, 0))
    filled = Batches(images, batch_size=8, seed=1, epoch=0, fill=(0, 0, 0), filled=True)
    assert len(filled) == len(plain) == 3
    assert [len(plain[step][1]) for step in range(3)] == [8, 8, 5]
    assert [len(filled[step][1]) for step in range(3)] == [8, 8, 8]
    np.testing.assert_array_equal(filled[1][1], plain[1][1])
    np.testing.assert_array_equal(filled[2][1], np.concatenate([plain[2][1], plain[0][1][:3]]))
    few = Batches(labelled([2, 1]), batch_size=8, seed=1, epoch=0, fill=(0, 0, 0), filled=True)
    assert np.bincount(few[0][1]).sum() == 8


def test_cutmix_puts_a_rectangle_of_one_image_into_another() -> None:
    pixels = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 24, 32, 3))
    kept = []
    for seed in range(60):
        out, order, own = cutmix(pixels, np.random.default_rng(seed))
        assert sorted(order) == list(range(40))
        assert set(np.unique(pixels)) == set(range(40))  # as they were
        foreign = (out[order != np.arange(40)] != pixels[order != np.arange(40)]).all(axis=-1)
        assert (foreign == foreign[0]).all()
        rows, columns = np.flatnonzero(foreign[0].any(axis=1)), np.flatnonzero(foreign[0].any(axis=0))
        assert foreign[0].sum() == len(rows) * len(columns)
        if len(rows):
            assert (out[:, rows[0], columns[0], 0] == order).all()
        assert own == pytest.approx(1 - foreign[0].mean())
        kept.append(own)
    assert min(kept) < 0.3
    assert max(kept) > 0.95


def test_targets_of_cutmix_say_how_much_of_an_image_is_of_which_class() -> None:
    shown = np.repeat(np.array([0, 200], np.uint8), 8)
    images = LabelledImages(
        np.broadcast_to(shown[:, None, None, None], (16, 8, 8, 3)), (shown > 0).astype(np.int64), ("dark", "light")
    )
    mixed = 0
    for epoch in range(12):
        batches = Batches(images, batch_size=16, seed=3, epoch=epoch, fill=(0, 0, 0), cutmix=0.7)
        pixels, targets = batches[0]
        light = (pixels == 200).mean(axis=(1, 2, 3))
        assert targets.dtype == np.float32
        np.testing.assert_allclose(targets, np.stack([1 - light, light], axis=1), atol=1e-6)
        mixed += bool(((targets > 0) & (targets < 1)).any())
    assert 4 <= mixed < 12


def test_an_epoch_gives_every_image_once_and_the_next_one_another_order() -> None:
    images = labelled([10, 11])
    epochs = [Batches(images, batch_size=8, seed=1, epoch=epoch, fill=(0, 0, 0)) for epoch in (0, 0, 1)]
    assert len(epochs[0]) == 3
    # 4 x 4 pixels are shifted by nothing, so that the pixels still tell the index.
    orders = [[int(image[0, 0, 0]) for step in range(3) for image in epoch[step][0]] for epoch in epochs]
    assert sorted(orders[0]) == list(range(21))
    assert orders[0] == orders[1] != orders[2]
