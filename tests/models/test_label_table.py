"""Tables of labels: what is read from them, and what is refused before any image is decoded."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.models.train import __main__ as command
from glimpse.models.train.multi_label import split, table
from glimpse.models.train.multi_label.table import LabelTable

HERE = Path("labels.csv")
_WORDS = st.text("abcdefghijklmnopqrstuvwxyzäß ,\"'-", min_size=1, max_size=8).filter(lambda word: word == word.strip())


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[str], list[list[int]]]:
    """Files, labels, and which file shows which label."""
    labels = draw(st.lists(_WORDS, min_size=1, max_size=5, unique=True))
    files = draw(st.lists(_WORDS.map(lambda word: f"{word}.png"), min_size=1, max_size=6, unique=True))
    row = st.lists(st.integers(0, 1), min_size=len(labels), max_size=len(labels))
    return files, labels, draw(st.lists(row, min_size=len(files), max_size=len(files)))


def written(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


@given(tables())
def test_columns_are_read_as_they_were_written(made: tuple[list[str], list[str], list[list[int]]]) -> None:
    files, labels, targets = made
    # A single column of that name would be a list.
    labels = [f"{label} x" for label in labels]
    rows = [[file, *map(str, row)] for file, row in zip(files, targets, strict=True)]
    found = table.parse(written([["file", *labels], *rows]), HERE)
    assert (found.files, found.labels) == (tuple(files), tuple(labels))
    assert found.targets.tolist() == targets


def test_names_are_composed_as_those_of_the_images_are() -> None:
    found = table.parse("file,labels\ncafe\u0301.png,the\u0301|cafe\u0301\n", HERE)
    assert (found.files, found.labels) == (("caf\u00e9.png",), ("caf\u00e9", "th\u00e9"))


@given(tables(), st.sampled_from(["|", ";", " | ", "; "]))
def test_lists_are_read_as_they_were_written(made: tuple[list[str], list[str], list[list[int]]], between: str) -> None:
    files, labels, targets = made
    shown = [[label for label, on in zip(labels, row, strict=True) if on] for row in targets]
    rows = [[file, between.join(each)] for file, each in zip(files, shown, strict=True)]
    found = table.parse(written([["file", "labels"], *rows]), HERE)
    assert found.files == tuple(files)
    assert found.labels == tuple(sorted({label for each in shown for label in each}))
    told = [{found.labels[place] for place in np.flatnonzero(row)} for row in found.targets]
    assert told == [set(each) for each in shown]


@given(st.text(max_size=60))
def test_any_text_is_a_table_or_is_refused_with_its_place(text: str) -> None:
    refused = ""
    try:
        found = table.parse(text, HERE)
    except ValueError as error:
        refused = str(error)
    else:
        assert found.targets.shape == (len(found.files), len(found.labels))
    assert not refused or refused.startswith("labels.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("file\na.png\n", "line 1: the header must name at least two columns"),
        ("file;labels\na.png;cat\n", "cells are separated by semicolons"),
        ("file,labels\na.png,cat\n\nb.png,dog\n", "line 3: the row is empty"),
        ("file,labels\n,cat\n", "line 2: the row names no image"),
        ("file,labels\na.png,cat\na.png,dog\n", "line 3: a.png is in line 2, too"),
        ("file,labels\n./a.png,cat\na.png,dog\n", "line 3: a.png is in line 2, too"),
        ("file,labels\na.png,cat|cat\n", "line 2: a label stands there twice"),
        ("file,labels\na.png,cat||dog\n", "line 2: there is no label between two separators"),
        ("file,labels\na.png,cat,dog\n", "line 2: a row must have 2 cells"),
        ("file,cat,dog\na.png,1\n", "line 2: a row must have 3 cells"),
        ("file,cat,dog\na.png,1,yes\n", "line 2: the cell of dog must be 1 or 0"),
        ("file,cat,cat\na.png,1,0\n", "no two the same"),
        ('file,labels\na.png,"cat\n', "not a valid row of a CSV file"),
    ],
)
def test_a_table_that_is_none_is_refused_by_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table.parse(text, HERE)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 and so on", "is an Excel workbook or another zip file, not a CSV file. Save the table as CSV"),
        (b"PAR1 and so on", "is a Parquet file, not a CSV file. Save the table as CSV"),
        ("file,labels\na.png,café\n".encode("latin-1"), "at byte 21, .*Save the file as UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_what_to_do(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        table.read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_byte_order_mark_and_backslashes_are_understood(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufefffile,labels\r\nfolder\\a.png,cat\r\nb.png,\r\n\r\n", encoding=encoding, newline="")
    found = table.read(path)
    assert (found.files, found.labels, found.targets.tolist()) == (("folder/a.png", "b.png"), ("cat",), [[1], [0]])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four files that are called as images are; nobody looks into them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.png,cat\nb.png,cat|dog\nc.png,dog\nd.png,\ne.png,\n", "names 1 image that .* does not have: e.png"),
        ("a.png,cat\nb.png,cat\nc.png,\n", "has 1 image that .* has no row for: d.png"),
        ("a.png,cat\nb.png,cat|dog\nc.png,\nd.png,\n", "labels that fewer than 2 images show: dog"),
        ("a.png,cat\nb.png,cat\nc.png,cat\nd.png,\n", "labels that all images show, or all but one: cat"),
        ("a.png,\nb.png,\nc.png,\nd.png,\n", "gives no image a label"),
    ],
)
def test_a_table_that_does_not_fit_ends_the_training_before_it_begins(
    rows: str, said: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = photos.parent / "labels.csv"
    labels.write_text(f"file,labels\n{rows}")
    out = photos.parent / "run"
    arguments = ["--data", str(photos), "--labels", str(labels), "--architecture", "basic_cnn", "--out", str(out)]
    assert command.main(arguments) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(said, told)
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--test-labels", "t.csv"], "only together with --labels"),
        (["--labels", "l.csv", "--test", "."], "give both, or neither"),
        (["--labels", "nowhere.csv"], "No such file"),
        (["--labels", "l.csv", "--samples", "."], "--samples cannot be used together with --labels"),
    ],
)
def test_options_of_tables_belong_together(
    more: list[str], said: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(photos), "--architecture", "basic_cnn", "--out", str(photos.parent / "run"), *more]
    assert command.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_labels_of_a_test_are_those_of_the_model() -> None:
    found = LabelTable(HERE, ("a.png",), ("dog", "cat"), np.array([[1, 0]]))
    assert found.ordered(["bird", "cat", "dog"]).targets.tolist() == [[0, 0, 1]]
    with pytest.raises(ValueError, match="does not have: cat"):
        found.ordered(["bird", "dog"])


def test_each_label_keeps_its_share_in_what_is_held_out() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(np.int64)
    chosen = split.held_out(targets, 80, seed=1)
    assert abs(len(chosen) - 80) <= 4
    np.testing.assert_allclose(targets[chosen].sum(axis=0), targets.sum(axis=0) / 5, atol=3)
    np.testing.assert_array_equal(chosen, split.held_out(targets, 80, seed=1))
    assert set(chosen) != set(split.held_out(targets, 80, seed=2))


def test_a_label_of_two_images_is_in_both_parts() -> None:
    targets = np.zeros((40, 2), np.int64)
    targets[:20, 0] = targets[[3, 30], 1] = 1
    chosen = split.held_out(targets, 4, seed=0)
    assert targets[chosen, 1].sum() == 1
