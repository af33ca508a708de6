"""`classify --explain`: pictures of where in a photo an answer comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from glimpse.client.commands import overlay
from glimpse.client.results import Explanation, PhotoArea
from tests.client.conftest import Glimpse


class Server(Protocol):
    """What these tests need of the running server."""

    @property
    def target(self) -> str: ...


def explanation(values: bytes, rows: int, area: PhotoArea) -> Explanation:
    return Explanation(3, "cat", "", "cam", rows, len(values) // rows, values, 0.0, 1.0, area)


def test_a_map_lies_over_the_part_that_was_seen(tmp_path: Path) -> None:
    """Bright where the numbers are high, as it was where they are low, and dark outside."""
    photo = tmp_path / "grey.png"
    Image.new("RGB", (400, 200), (100, 100, 100)).save(photo)
    grid = bytes([0, 0, 0, 255])
    drawn = np.asarray(overlay.draw(photo, explanation(grid, 2, PhotoArea(0.25, 0, 0.75, 1))))
    assert drawn.shape == (200, 400, 3)
    assert drawn[100, 50].max() < 50
    assert abs(drawn[10, 110].astype(int) - 100).max() < 20
    red, green, blue = drawn[190, 290]
    assert red > 150 > blue
    assert red >= green


def test_a_photo_is_turned_upright_before_it_is_drawn_over(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200), (100, 100, 100)).save(tmp_path / "turned.jpg", exif=exif)
    drawn = overlay.draw(tmp_path / "turned.jpg", explanation(bytes([255, 0]), 2, PhotoArea(0, 0.25, 1, 0.75)))
    assert drawn.size == (200, 400)
    pixels = np.asarray(drawn)
    assert pixels[110, 100, 0] > 150
    assert pixels[50, 100].max() < 50


def test_a_map_may_reach_beyond_the_photo(tmp_path: Path) -> None:
    """Where the network saw padding around it; a small photo is drawn larger."""
    Image.new("RGB", (40, 20), (100, 100, 100)).save(tmp_path / "small.png")
    drawn = overlay.draw(tmp_path / "small.png", explanation(bytes(range(49)), 7, PhotoArea(0, -0.5, 1, 1.5)))
    assert drawn.size == (280, 140)


def test_the_command_writes_a_picture_for_each_photo(
    glimpse: Glimpse, server: Server, cat_photo: Path, tmp_path: Path
) -> None:
    """Under its name; two photos of one name have two, and what is no image none."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "chelsea.jpg").write_bytes(cat_photo.read_bytes())
    (tmp_path / "text.jpg").write_text("no image")
    ran = glimpse(
        *("classify", "--target", server.target, "--json", "--explain", "maps"),
        *(cat_photo, tmp_path / "other" / "chelsea.jpg", tmp_path / "text.jpg"),
    )
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["chelsea.jpg-2.png", "chelsea.jpg.png"]
    with Image.open(tmp_path / "maps" / "chelsea.jpg.png") as drawn:
        assert drawn.size == (451, 300)
    first, _, refused = map(json.loads, ran.stdout.splitlines())
    found = first["explanation"]
    assert (found["label"], found["method"], np.shape(found["values"])) == ("cat", "cam", (8, 8))
    assert refused["error"]["reason"] == "NOT_AN_IMAGE"
    assert "explanation" not in refused


def test_a_run_that_is_resumed_keeps_the_pictures_of_the_one_before(
    glimpse: Glimpse, server: Server, cat_photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "chelsea.jpg").write_bytes(cat_photo.read_bytes())
    arguments = ("classify", "--target", server.target, "--csv", "-o", "answers.csv", "--explain", "maps", cat_photo)
    assert glimpse(*arguments).returncode == 0
    before = (tmp_path / "maps" / "chelsea.jpg.png").stat().st_mtime_ns
    assert glimpse(*arguments, tmp_path / "other" / "chelsea.jpg", "--resume").returncode == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["chelsea.jpg-2.png", "chelsea.jpg.png"]
    assert (tmp_path / "maps" / "chelsea.jpg.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--explain", "maps", "-"), "the standard input cannot be drawn"),
        (("--explain", "photos/maps", "photos"), "the pictures would be, too"),
        (("--explain-class", "dog", "photo.jpg"), "It needs --explain."),
        (("--explain-method", "cam", "photo.jpg"), "It needs --explain."),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(
    glimpse: Glimpse, nowhere: str, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "photos").mkdir()
    ran = glimpse("classify", "--target", nowhere, *arguments)
    assert ran.returncode == 2
    assert said in " ".join(ran.stderr.replace("│", " ").split())
    assert not (tmp_path / "photos" / "maps").exists()
