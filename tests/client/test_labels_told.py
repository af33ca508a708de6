"""How the commands show the answers of a multi-label model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from glimpse.client import ImageResult, Prediction
from glimpse.client.commands.placing import Method
from glimpse.client.commands.records import Csv, JsonLines
from glimpse.client.commands.render import to_text
from glimpse.client.commands.sorting import Sorter

TOLD = ImageResult(
    (
        Prediction(0, "cat", 0.9, over_threshold=True),
        Prediction(2, "dog", 0.6, over_threshold=False),
        Prediction(1, "grass", 0.3, over_threshold=True),
    )
)


def test_a_table_has_the_labels_as_training_reads_them() -> None:
    form = Csv(2)
    (row,) = csv.DictReader(io.StringIO((form.header + form.record("a.jpg", TOLD)).decode()))
    assert row["labels"] == "cat|grass"
    assert (row["label_1"], row["label_2"]) == ("cat", "dog")
    alone = ImageResult((Prediction(0, "cat", 0.9),))
    (row,) = csv.DictReader(io.StringIO((form.header + form.record("a.jpg", alone)).decode()))
    assert row["labels"] == ""  # no multi-label model has answered


def test_tables_of_older_versions_are_gone_on_with_as_they_are() -> None:
    form = Csv(2)
    for older in (Csv(2, labels=False), Csv(2, ids=False, labels=False)):
        assert form.of_file(older.header).header == older.header
        assert older.read(older.record("a.jpg", TOLD)).path == "a.jpg"
    assert form.of_file(form.header) is form


def test_json_tells_which_labels_are_over_their_thresholds() -> None:
    told = json.loads(JsonLines().record("a.jpg", TOLD))
    assert [each["over_threshold"] for each in told["predictions"]] == [True, False, True]
    plain = json.loads(JsonLines().record("a.jpg", ImageResult((Prediction(0, "cat", 0.9),))))
    assert "over_threshold" not in plain["predictions"][0]


def test_a_terminal_shows_what_is_below_its_threshold() -> None:
    lines = [line for line in to_text("a.jpg", TOLD).splitlines() if "below its threshold" in line]
    assert len(lines) == 1
    assert "dog" in lines[0]


def test_a_photo_of_no_label_is_sorted_into_unsure(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")
    with Sorter(str(tmp_path / "into"), Method.COPY, min_probability=0.0, dry_run=True) as sorter:
        below = sorter.sort(str(photo), ImageResult((Prediction(2, "dog", 0.9, over_threshold=False),)))
        over = sorter.sort(str(photo), ImageResult((Prediction(2, "dog", 0.9, over_threshold=True),)))
    assert (below.place, over.place) == (
        str(tmp_path / "into" / "unsure" / "a.jpg"),
        str(tmp_path / "into" / "dog" / "a.jpg"),
    )
