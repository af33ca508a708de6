"""The client on a true server: real photos, the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from glimpse.client import Client, ImageRefusedError, InvalidRequestError, ModelNotFoundError
from tests.client.conftest import Glimpse

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Server(Protocol):
    """What these tests need of the running server."""

    @property
    def target(self) -> str: ...


def test_a_cat_is_a_cat_as_a_path_as_bytes_and_as_pixels(server: Server, cat_photo: Path, tmp_path: Path) -> None:
    # PNG, whose pixels are the same whoever decodes it.
    png = tmp_path / "cat.png"
    with Image.open(cat_photo) as photo:
        pixels = np.asarray(photo.convert("RGB"))
        photo.save(png)
    with Client(server.target) as client:
        answers = [client.classify(source, top_k=10) for source in (png, png.read_bytes(), pixels)]

    for answer in answers:
        assert answer.predictions[0].label == "cat"
        assert answer.predictions == answers[0].predictions
        assert sorted(each.label for each in answer.predictions) == CIFAR10
        assert sum(each.probability for each in answer.predictions) == pytest.approx(1, abs=1e-5)


def test_an_answer_tells_the_model_and_where_the_time_went(server: Server, cat_photo: Path) -> None:
    with Client(server.target) as client:
        answer = client.classify(cat_photo)

    assert answer.model is not None
    assert answer.model.name == "se_resnet20_cifar10"
    assert answer.model.weights_digest.startswith("sha256:")
    assert answer.timing is not None
    assert answer.timing.decode_seconds > 0
    assert answer.timing.compute_seconds > 0
    assert answer.timing.batch_size >= 1


def test_predictions_below_the_minimum_are_left_out(server: Server, cat_photo: Path) -> None:
    with Client(server.target) as client:
        everything = client.classify(cat_photo, top_k=10).predictions
        least = everything[2].probability
        some = client.classify(cat_photo, top_k=10, min_probability=least).predictions
    assert [each.label for each in some] == [each.label for each in everything if each.probability >= least]


@pytest.mark.parametrize("top_k", [0, 11, 10_000])
def test_a_top_k_out_of_range_is_refused_with_its_reason(server: Server, cat_photo: Path, top_k: int) -> None:
    with Client(server.target) as client, pytest.raises(InvalidRequestError) as caught:
        client.classify(cat_photo, top_k=top_k)
    assert caught.value.reason == "TOP_K_OUT_OF_RANGE"
    assert caught.value.field == "options.top_k"


def test_an_unknown_model_is_refused_with_its_reason(server: Server, cat_photo: Path) -> None:
    with Client(server.target) as client:
        for call in (lambda: client.classify(cat_photo, model="nonsense"), lambda: client.describe(model="nonsense")):
            with pytest.raises(ModelNotFoundError) as caught:
                call()
            assert caught.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "EMPTY_IMAGE"), (b"This is a letter, not a picture.", "NOT_AN_IMAGE")]
)
def test_what_is_no_image_is_refused_with_its_reason(server: Server, data: bytes, reason: str) -> None:
    with Client(server.target) as client, pytest.raises(ImageRefusedError) as caught:
        client.classify(data)
    assert caught.value.reason == reason


def test_bulk_work_answers_every_good_image_and_every_bad_one(server: Server, cat_photo: Path) -> None:
    photo = cat_photo.read_bytes()
    sources = [photo[: len(photo) // 2] if number % 10 == 3 else photo for number in range(100)]
    with Client(server.target) as client:
        answers = dict(client.classify_many(enumerate(sources)))

    assert sorted(answers) == list(range(100))
    for number, answer in answers.items():
        if number % 10 == 3:
            assert answer.error is not None
            assert answer.error.reason == "TRUNCATED_IMAGE"
        else:
            assert answer.predictions[0].label == "cat"


def test_a_description_adds_up(server: Server) -> None:
    with Client(server.target) as client:
        description = client.describe()

    assert description.model.name == "se_resnet20_cifar10"
    assert sum(stage.parameters for stage in description.stages) == description.parameters
    assert [each.label for each in description.classes] == CIFAR10
    assert (description.input.height, description.input.width, description.input.channels) == (32, 32, 3)
    assert description.stages[-1].output_shape == (10,)


def test_the_command_line_says_cat_first(server: Server, cat_photo: Path, glimpse: Glimpse) -> None:
    ended = glimpse("classify", cat_photo, "--json", "--target", server.target)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["predictions"][0]["label"] == "cat"

    ended = glimpse("classify", cat_photo, "--target", server.target)
    assert ended.stdout.splitlines()[1].split()[0] == "cat"


def test_the_command_line_tells_refused_requests_from_refused_images(
    server: Server, cat_photo: Path, glimpse: Glimpse
) -> None:
    assert glimpse("classify", cat_photo, "--top-k", "0", "--target", server.target).returncode == 4
    assert glimpse("classify", cat_photo, "--model", "nonsense", "--target", server.target).returncode == 4
    assert glimpse("classify", cat_photo, "-", "--target", server.target, stdin=b"letter").returncode == 1


def test_a_narrow_terminal_folds_the_blocks_and_leaves_every_number_whole(server: Server, glimpse: Glimpse) -> None:
    shown = glimpse("describe", "--target", server.target, COLUMNS="80").stdout
    for whole in ("repeats", "multiply-adds", "864,802", "105,133,536", "32 x 32 x 16"):
        assert whole in shown


def test_the_command_line_describes_stages_that_add_up_to_the_total_shown(server: Server, glimpse: Glimpse) -> None:
    ended = glimpse("describe", "--target", server.target)

    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines() if line.strip()]
    [stated] = [row[1] for row in rows if row[0] == "parameters"]
    total = rows[-1]
    first = next(index for index, row in enumerate(rows) if row[0] == "stage")
    assert total[0] == "total"
    assert total[1] == stated.rstrip(",")
    for column, shown in ((-2, total[1]), (-1, total[2])):
        assert sum(int(row[column].replace(",", "")) for row in rows[first + 1 : -1]) == int(shown.replace(",", ""))


def test_a_photo_of_a_cat_is_sorted_among_the_cats_and_comes_back(
    server: Server, cat_photo: Path, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "chelsea.jpg").write_bytes(cat_photo.read_bytes())
    (tmp_path / "photos" / "letter.jpg").write_text("This is a letter, not a picture.")
    ended = glimpse("sort", "photos", "--into", "sorted", "--move", "--target", server.target)

    assert ended.returncode == 1, "the letter stays"
    assert "photos/letter.jpg: NOT_AN_IMAGE" in ended.stdout
    assert (tmp_path / "sorted" / "cat" / "chelsea.jpg").read_bytes() == cat_photo.read_bytes()
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["letter.jpg"]

    [undo_list] = (tmp_path / "sorted").glob("undo-*")
    assert glimpse("unsort", undo_list).returncode == 0
    assert (tmp_path / "photos" / "chelsea.jpg").read_bytes() == cat_photo.read_bytes()


def test_a_run_into_a_table_is_gone_on_with(server: Server, cat_photo: Path, glimpse: Glimpse, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(cat_photo.read_bytes())
    command = ["classify", ".", "--csv", "--top-k", "2", "-o", "answers.csv", "--target", server.target]
    assert glimpse(*command).returncode == 0
    whole = (tmp_path / "answers.csv").read_bytes()
    (tmp_path / "answers.csv").write_bytes(whole[: len(whole) // 2])
    assert glimpse(*command, "--resume").returncode == 0

    paths = [line.split(",")[:2] for line in (tmp_path / "answers.csv").read_text().splitlines()[1:]]
    assert paths == [["./a.jpg", "cat"], ["./b.jpg", "cat"], ["./c.jpg", "cat"]]
