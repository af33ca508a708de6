"""Whether an image shows any of the classes, as callers see it: from the library and on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from glimpse.client import Client
from tests.client.conftest import Glimpse


class Server(Protocol):
    """What these tests need of the running server."""

    @property
    def target(self) -> str: ...


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Shows nothing that CIFAR-10 has a class for."""
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def test_the_library_tells_novelty_where_it_is_asked_for(server: Server, cat_photo: Path, noise: Path) -> None:
    with Client(server.target) as client:
        fitted = client.describe().novelty
        usual, cat, unknown = (
            client.classify(cat_photo),
            client.classify(cat_photo, novelty=True),
            client.classify(noise, novelty=True),
        )
    assert fitted is not None
    assert (fitted.score, fitted.known_share, fitted.images) == ("logistic", 0.95, 1250)
    assert usual.novelty is None
    assert cat.novelty is not None
    assert unknown.novelty is not None
    assert cat.novelty.threshold == unknown.novelty.threshold == fitted.threshold == pytest.approx(0.4796)
    assert cat.novelty.score < fitted.threshold < unknown.novelty.score
    assert cat.novelty.known
    assert not unknown.novelty.known
    assert len(unknown.predictions) == 5


def test_unknown_images_get_no_classes_where_known_ones_are_required(
    server: Server, cat_photo: Path, noise: Path
) -> None:
    images = {"cat": cat_photo, "noise": noise}
    with Client(server.target) as client:
        found = dict(client.classify_many(images.items(), require_known=True))
    assert found["cat"].predictions[0].label == "cat"
    assert found["noise"].predictions == ()


def test_the_command_line_says_none_of_these(server: Server, glimpse: Glimpse, noise: Path) -> None:
    shown = glimpse("classify", noise, "--novelty", "--target", server.target)
    assert "none of these (novelty " in shown.stdout
    assert shown.stdout.count("%") == 5
    alone = glimpse("classify", noise, "--require-known", "--target", server.target)
    assert "none of these (novelty " in alone.stdout
    assert "%" not in alone.stdout
    told = json.loads(glimpse("classify", noise, "--novelty", "--json", "--target", server.target).stdout)
    assert told["novelty"]["score"] > told["novelty"]["threshold"]
    assert told["novelty"]["known"] is False
    assert "novelty" not in json.loads(glimpse("classify", noise, "--json", "--target", server.target).stdout)
    assert "unknown above 0.4796 (logistic)" in glimpse("describe", "--target", server.target).stdout


def test_a_table_has_columns_for_novelty_where_it_is_asked_for(
    server: Server, glimpse: Glimpse, cat_photo: Path, noise: Path, tmp_path: Path
) -> None:
    """Also where a run is continued that does not ask for it any more: a file has one kind of lines."""
    table = tmp_path / "table.csv"
    arguments = ["--csv", "-o", str(table), "--target", server.target]
    glimpse("classify", noise, "--novelty", *arguments)
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert float(row["novelty"]) > float(row["threshold"])
    assert row["known"] == "false"
    assert glimpse("classify", noise, cat_photo, "--require-known", "--resume", *arguments).returncode == 0
    missing = tmp_path / "missing.jpg"
    assert glimpse("classify", noise, cat_photo, missing, "--resume", *arguments).returncode == 1
    found = {Path(row["path"]).name: row["known"] for row in csv.DictReader(table.read_text().splitlines())}
    assert found == {noise.name: "false", cat_photo.name: "true", "missing.jpg": ""}
    assert "known" not in glimpse("classify", noise, "--csv", "--target", server.target).stdout.splitlines()[0]
