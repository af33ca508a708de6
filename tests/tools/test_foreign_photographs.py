"""Photographs of none of CIFAR-10's classes: which they are, and what is made of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from tools.foreign_photographs import KNOWN, LIKE_KNOWN, PIECES, PLANTS, kind, make

DAISY, TABBY, WOLF, LAPTOP = 985, 281, 269, 620


@pytest.mark.parametrize(
    ("index", "found"),
    [(DAISY, "plants"), (TABBY, "known/cat"), (WOLF, ""), (LAPTOP, "foreign"), (817, "known/automobile")],
)
def test_a_photograph_belongs_where_its_class_does(index: int, found: str) -> None:
    assert kind(index) == found


def test_no_class_is_of_two_kinds() -> None:
    """And CIFAR-10's classes are all there."""
    kinds = [*KNOWN.values(), LIKE_KNOWN, PLANTS]
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert len(KNOWN) == 10


def test_pieces_are_made_of_three_foreign_photographs_in_four(tmp_path: Path) -> None:
    """The same each time, some as small as pictures of CIFAR-10; the fourth is left whole, and no other is cut."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "jpeg")
    classes = [LAPTOP, DAISY, LAPTOP, TABBY, LAPTOP, WOLF, LAPTOP]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(len(classes)):
            archive.writestr(f"{number}.JPEG", file.getvalue())
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{number}.JPEG {index}\n" for number, index in enumerate(classes)))
    for again in ("once", "twice"):
        make(tmp_path / "images.zip", labels, tmp_path / again)
    made = {str(path.relative_to(tmp_path / "once")): path for path in (tmp_path / "once").rglob("*.jpg")}
    assert {name for name in made if not name.startswith("pieces")} == {
        "plants/1.jpg",
        "known/cat/3.jpg",
        "whole/6.jpg",
    }
    pieces = [path for name, path in made.items() if name.startswith("pieces")]
    assert len(pieces) == 3 * PIECES
    assert {path.name[:4] for path in pieces} == {"0000", "0002", "0004"}
    assert (32, 32) in {decode(path.read_bytes(), OWN_FILES).image.size for path in pieces}
    for name, path in made.items():
        assert path.read_bytes() == (tmp_path / "twice" / name).read_bytes()
