"""Golden answers in a bundle: what is recorded comes back, and what does not belong to the bundle says why."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import bundle, golden
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.prestem.recipe import Recipe
from tests.models.full_disk import files_of


def picture(name: str, red: int) -> golden.SampleImage:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (red, 0, 0)).save(buffer, "PNG")
    return golden.SampleImage(name, buffer.getvalue(), "made for a test, CC0")


def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The redder, the more of the first class."""
    red = pixels[:, 0, 0, 0].astype(np.float32) / 255
    return np.stack([red, (1 - red) / 2, (1 - red) / 2], axis=1)


@pytest.fixture
def made(tmp_path: Path) -> bundle.Bundle:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    return bundle.write(
        tmp_path,
        name="small",
        version="1",
        architecture="resnet20",
        variant="cifar",
        input_shape=(8, 8, 3),
        labels=[ClassLabel("red"), ClassLabel("dark"), ClassLabel("Blässhuhn")],
        recipe=Recipe(height=8, width=8),
        temperature=1.25,
        metrics={},
    )


@pytest.fixture
def recorded(made: bundle.Bundle) -> bundle.Bundle:
    return golden.record(made, answer, [picture("red.png", 255), picture("dim.png", 200)], by="a test")


@pytest.fixture
def edit(recorded: bundle.Bundle) -> Callable[..., bundle.Bundle]:
    """Change values of answers.json."""

    def change(**changes: Any) -> bundle.Bundle:
        path = recorded.folder / "golden" / "answers.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return recorded

    return change


def test_what_is_recorded_comes_back(recorded: bundle.Bundle) -> None:
    red, dim = golden.read(recorded)
    assert (red.picture, dim.picture) == (picture("red.png", 255), picture("dim.png", 200))
    np.testing.assert_array_equal(red.probabilities, [1, 0, 0])
    np.testing.assert_allclose(dim.probabilities, [0.7843137, 0.1078431, 0.1078431], atol=1e-7)


def test_a_bundle_that_names_none_has_none_even_beside_a_folder_of_that_name(made: bundle.Bundle) -> None:
    (made.folder / "golden").mkdir()
    assert golden.read(made) == ()


def test_recording_sees_a_picture_as_the_server_does(made: bundle.Bundle) -> None:
    """Here a turned one: the first pixel, which decides, is in the file another one."""
    exif = Image.Exif()
    exif[0x0112] = 3
    sides = Image.new("RGB", (12, 10), (0, 0, 0))
    sides.paste((255, 0, 0), (6, 0, 12, 10))
    buffer = io.BytesIO()
    sides.save(buffer, "PNG", exif=exif)
    (kept,) = golden.read(
        golden.record(made, answer, [golden.SampleImage("turned.png", buffer.getvalue(), "")], by="a test")
    )
    np.testing.assert_array_equal(kept.probabilities, [1, 0, 0])


def test_a_picture_that_cannot_be_decoded_is_named(made: bundle.Bundle) -> None:
    with pytest.raises(BundleError, match=r"picture notes\.txt cannot be decoded: .* are not an image"):
        golden.record(made, answer, [golden.SampleImage("notes.txt", b"not a picture", "")], by="a test")


def test_a_picture_without_a_clear_answer_is_left_out(made: bundle.Bundle) -> None:
    kept = golden.read(golden.record(made, answer, [picture("red.png", 255), picture("half.png", 110)], by="a test"))
    assert [each.picture.name for each in kept] == ["red.png"]


def test_no_clear_answer_at_all_is_refused_and_nothing_is_written(made: bundle.Bundle) -> None:
    with pytest.raises(BundleError, match="is not certain about any of the pictures"):
        golden.record(made, answer, [picture("half.png", 110)], by="a test")
    assert not (made.folder / "golden").exists()
    assert bundle.read(made.folder).golden == ""


def test_a_full_disk_leaves_the_description_whole(made: bundle.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (made.folder / "model.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        golden.record(made, answer, [picture("red.png", 255)], by="a test")
    assert (made.folder / "model.json").read_bytes() == before


@pytest.mark.parametrize("name", ["other.png", "red.png"])
def test_a_full_disk_leaves_the_answers_of_before(recorded: bundle.Bundle, name: str) -> None:
    """Also where a new picture has the name of one that is there."""
    folder = recorded.folder / "golden"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = picture(name, 250)
    # Of the picture nothing fits; of the answers, behind it, not all.
    for most in (50, max(len(other.data), 300)):
        with files_of(most), pytest.raises(OSError, match="File too large"):
            golden.record(recorded, answer, [other], by="a test")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    golden.record(recorded, answer, [other], by="a test")
    (kept,) = golden.read(recorded)
    assert kept.picture.data == other.data
    assert len(list(folder.iterdir())) == 2


def test_pictures_of_one_name_are_both_recorded(made: bundle.Bundle) -> None:
    both = [picture("red.png", 255), picture("red.png", 200)]
    kept = golden.read(golden.record(made, answer, both, by="a test"))
    assert [each.picture.data for each in kept] == [each.data for each in both]


def test_a_link_in_place_of_the_answers_is_not_written_through(recorded: bundle.Bundle, tmp_path: Path) -> None:
    answers, elsewhere = recorded.folder / "golden" / "answers.json", tmp_path / "mine"
    elsewhere.write_text("mine")
    answers.unlink()
    answers.symlink_to(elsewhere)
    golden.record(recorded, answer, [picture("red.png", 255)], by="a test")
    assert elsewhere.read_text() == "mine"
    assert len(golden.read(recorded)) == 1


def test_answers_of_another_temperature_are_recorded_anew_with_their_pictures(recorded: bundle.Bundle) -> None:
    """Which lie in a folder of another name; that is gone afterwards."""
    name = golden.rescaled(recorded.folder, recorded, 2.0)
    path = recorded.folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"golden": name, "temperature": 2.0}))
    found = bundle.read(recorded.folder)
    shown = golden.pictures(found.folder, found.golden)
    assert [each.name for each in shown] == ["red.png", "dim.png"]
    again = golden.record(found, answer, shown[:1], by="a test")
    assert again.golden == "golden"
    assert [each.picture.name for each in golden.read(again)] == ["red.png"]
    assert not (recorded.folder / name).exists()


def test_recording_anew_leaves_no_picture_of_the_last_time(recorded: bundle.Bundle) -> None:
    golden.record(recorded, answer, [picture("other.png", 255)], by="a test")
    assert {file.name for file in (recorded.folder / "golden").iterdir()} == {"other.png", "answers.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_digest": "sha256:0"}, "recorded with weights_digest 'sha256:0', but the bundle has sha256:"),
        ({"recipe_digest": "sha256:0"}, "recipe_digest"),
        ({"temperature": 2.0}, "temperature 2.0, but the bundle has 1.25"),
        ({"format": 9}, "format 9"),
        ({"pictures": []}, "holds no picture"),
        ({"pictures": [{"file": "red.png", "probabilities": [0.5, 0.5]}]}, "must hold 3 probabilities for red.png"),
        ({"pictures": [{"file": "red.png", "probabilities": [0.5, 0.5, float("nan")]}]}, "NaN is not a number in JSON"),
        ({"pictures": [{"file": "red.png", "probabilities": [0.5, 0.5, "0"]}]}, "must all be finite numbers"),
        ({"pictures": [{"file": "red.png", "probabilities": [0.5, 0.5, 1e200]}]}, "must all be finite numbers"),
        ({"pictures": [{"file": "../model.json", "probabilities": []}]}, "must lie in its folder"),
        ({"pictures": [{"file": "gone.png", "probabilities": [1, 0, 0]}]}, r"gone\.png cannot be read"),
        ({"pictures": [{}]}, "it lacks 'file'"),
        ({"pictures": 7}, "pictures must be a list. Received: 7"),
    ],
)
def test_answers_that_do_not_belong_to_the_bundle_say_why(
    edit: Callable[..., bundle.Bundle], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        golden.read(edit(**changes))


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "\udcff"])
def test_a_file_of_answers_that_cannot_be_read_says_so(recorded: bundle.Bundle, text: str) -> None:
    path = recorded.folder / "golden" / "answers.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match="has no valid golden answers"):
        golden.read(recorded)


def test_a_folder_of_answers_outside_of_the_bundle_is_refused(recorded: bundle.Bundle) -> None:
    path = recorded.folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"golden": "../elsewhere"}))
    with pytest.raises(BundleError, match="must lie in its folder"):
        bundle.read(recorded.folder)


def test_the_shipped_pictures_name_their_source_and_licence() -> None:
    shipped = golden.read(bundle.read(bundle.EMBEDDED_DEFAULT))
    assert len({int(each.probabilities.argmax()) for each in shipped}) >= 4
    for each in shipped:
        assert "CC0" in each.picture.source or "public domain" in each.picture.source
        assert len(each.picture.data) < 6000


def test_a_bundle_without_pictures_of_its_own_is_recorded_with_the_shipped_ones(made: bundle.Bundle) -> None:
    assert [each.name for each in golden.pictures(made.folder)] == [
        each.picture.name for each in golden.read(bundle.read(bundle.EMBEDDED_DEFAULT))
    ]
