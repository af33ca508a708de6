"""Embeddings from the command line: files that NumPy reads, what a run goes on with, and images that are alike."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from glimpse.client import Client
from glimpse.client.commands import parquet_file
from glimpse.client.commands.npy_file import NpyFile
from glimpse.client.commands.parquet_file import ParquetFile
from glimpse.client.commands.standard import OutputError
from glimpse.client.errors import Code
from glimpse.client.results import ImageResult, ModelIdentity
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import Glimpse
from tests.client.scripted import Context, ScriptedServer
from tests.conftest import RunningServer

NUMBERS = 112  # of the CIFAR-10 model's embeddings
MODEL = ModelIdentity("model", "1", "sha256:abc")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs, a smaller JPEG of the first, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    Image.fromarray(data.astronaut()).save(folder / "copy.jpg", quality=75)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def names(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of names behind its first."""
    first, *lines = map(json.loads, path.read_text().splitlines())
    assert first["numbers"] == NUMBERS
    return lines


def test_numpy_reads_the_embeddings_and_the_names_are_beside_it(
    server: RunningServer, glimpse: Glimpse, photos: Path, tmp_path: Path
) -> None:
    ended = glimpse("embed", "photos", "-o", "vectors.npy", "--target", server.target)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "5 embeddings written to vectors.npy. The names are in vectors.names.jsonl.",
        "1 image could not be classified.",
    ]
    vectors = np.load(tmp_path / "vectors.npy")
    assert (vectors.shape, vectors.dtype) == ((5, NUMBERS), np.float32)
    lines = names(tmp_path / "vectors.names.jsonl")
    rows = [Path(each["path"]).name for each in lines if "error" not in each]
    assert rows == ["astronaut.png", "chelsea.png", "coffee.png", "copy.jpg", "rocket.png"]
    assert [each["error"]["reason"] for each in lines if "error" in each] == ["NOT_AN_IMAGE"]
    with Client(server.target) as client:
        for row, name in enumerate(rows):
            expected = client.classify(photos / name, outputs=["embedding"]).embedding
            np.testing.assert_allclose(vectors[row], np.asarray(expected), atol=1e-4)


@pytest.mark.parametrize("torn", [b"", b'{"path": "photos/cof'])
def test_an_interrupted_run_is_gone_on_with(
    torn: bytes, server: RunningServer, glimpse: Glimpse, photos: Path, tmp_path: Path
) -> None:
    """Also where it ended within a line, or between a row and its name."""
    glimpse("embed", "photos", "-o", "whole.npy", "--target", server.target)
    shutil.copy(tmp_path / "whole.npy", tmp_path / "part.npy")
    kept = (tmp_path / "whole.names.jsonl").read_bytes().splitlines(keepends=True)[:4]
    (tmp_path / "part.names.jsonl").write_bytes(b"".join(kept) + torn)
    ended = glimpse("embed", "photos", "-o", "part.npy", "--resume", "--target", server.target)
    assert "which now holds 5" in ended.stderr
    assert (tmp_path / "part.names.jsonl").read_bytes() == (tmp_path / "whole.names.jsonl").read_bytes()
    found = np.load(tmp_path / "part.npy")
    np.testing.assert_allclose(found, np.load(tmp_path / "whole.npy"), atol=1e-4)


def test_json_lines_hold_the_same_embeddings_and_go_on(
    server: RunningServer, glimpse: Glimpse, photos: Path, tmp_path: Path
) -> None:
    glimpse("embed", "photos", "-o", "vectors.jsonl", "--target", server.target)
    lines = (tmp_path / "vectors.jsonl").read_text().splitlines(keepends=True)
    answers = [json.loads(line) for line in lines]
    assert [len(each["embedding"] or ()) for each in answers] == [NUMBERS, 0, *[NUMBERS] * 4]
    assert {each["model"]["name"] for each in answers if each["model"]} == {"se_resnet20_cifar10"}
    (tmp_path / "vectors.jsonl").write_text("".join(lines[:3]))
    glimpse("embed", "photos", "-o", "vectors.jsonl", "--resume", "--target", server.target)
    again = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    assert [each["path"] for each in again] == [each["path"] for each in answers]


def test_a_parquet_file_is_a_table_of_all_answers_of_all_runs(
    server: RunningServer, glimpse: Glimpse, photos: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed, and is needed to read the file")
    shutil.move(photos / "rocket.png", tmp_path / "rocket.png")
    ended = glimpse("embed", "photos", "-o", "vectors.parquet", "--target", server.target)
    assert "5 answers written to vectors.parquet.jsonl. The table of all of them is vectors.parquet." in ended.stderr
    ended = glimpse("embed", "photos", "-o", "vectors.parquet", "--target", server.target)
    assert ended.returncode == 2
    assert "exists already" in ended.stderr
    shutil.move(tmp_path / "rocket.png", photos / "rocket.png")
    ended = glimpse("embed", "photos", "-o", "vectors.parquet", "--resume", "--target", server.target)
    assert "1 answer added to vectors.parquet.jsonl, which now holds 6 answers." in ended.stderr
    rows = {Path(each["path"]).name: each for each in parquet.read_table(tmp_path / "vectors.parquet").to_pylist()}
    assert len(rows) == 6
    broken = rows.pop("broken.jpg")
    assert (broken["embedding"], broken["reason"]) == (None, "NOT_AN_IMAGE")
    assert {each["model"] for each in rows.values()} == {"se_resnet20_cifar10"}
    lines = [json.loads(line) for line in (tmp_path / "vectors.parquet.jsonl").read_text().splitlines()]
    for each in lines:
        if each["embedding"] is not None:
            expected = np.asarray(each["embedding"], np.float32)
            np.testing.assert_array_equal(np.asarray(rows[Path(each["path"]).name]["embedding"], np.float32), expected)


def test_a_run_that_is_broken_off_leaves_its_answers_and_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "_pyarrow", lambda: (None, None))
    path = tmp_path / "vectors.parquet"

    def broken_off(*, resume: bool) -> None:
        with ParquetFile(path, resume=resume, retry_failed=False) as file:
            assert file.has("a.jpg") == resume
            file.write("b.jpg" if resume else "a.jpg", vector(1, 2))
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            broken_off(resume=resume)
    assert [each.name for each in tmp_path.iterdir()] == ["vectors.parquet.jsonl"]


def test_without_pyarrow_a_parquet_file_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install pyarrow.* \.npy or \.jsonl"):
        ParquetFile(tmp_path / "vectors.parquet", resume=False, retry_failed=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-o", "vectors.csv"], "must end in .npy, .jsonl or .parquet"),
        (["--resume"], "needs --output"),
        (["-o", "vectors.npy", "--retry-failed"], "needs --resume"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: list[str], why: str, glimpse: Glimpse) -> None:
    ended = glimpse("embed", "photos", *arguments)
    assert ended.returncode == 2
    assert why in " ".join(ended.stderr.split())


def test_a_file_that_holds_something_else_is_left_alone(glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "vectors.npy").write_bytes(b"the work of a night")
    beside = tmp_path / "vectors.names.jsonl"
    for content in ('{"some": "thing"}\n', ""):
        for options in ([], ["--resume"]):
            beside.write_text(content)
            ended = glimpse("embed", "photos", "-o", "vectors.npy", *options)
            assert ended.returncode == 2, ended.stderr
            assert (tmp_path / "vectors.npy").read_bytes() == b"the work of a night"
            assert beside.read_text() == content


def vector(*numbers: float, model: ModelIdentity = MODEL) -> ImageResult:
    from array import array

    return ImageResult((), model=model, embedding=array("f", numbers))


def test_embeddings_of_two_models_are_not_put_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    with NpyFile(path, resume=False, retry_failed=False) as file:
        file.write("a.jpg", vector(1, 2))
        with pytest.raises(OutputError, match=r"holds embeddings of model, version 1 .* now answers with other"):
            file.write("b.jpg", vector(3, 4, model=ModelIdentity("other", "1", "sha256:def")))
    assert np.load(path).tolist() == [[1, 2]]
    with (
        NpyFile(path, resume=True, retry_failed=False) as file,
        pytest.raises(OutputError, match="cannot be compared"),
    ):
        file.write("b.jpg", vector(3, 4, 5))


def test_a_passing_failure_is_sent_again_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    with NpyFile(path, resume=False, retry_failed=False) as file:
        file.write("a.jpg", vector(1, 2))
        file.write("b.jpg", ImageResult.failed(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "late"))
        file.write("c.jpg", ImageResult.failed(Code.INVALID_ARGUMENT, "NOT_AN_IMAGE", "none"))
    for retried in (False, True):
        with NpyFile(path, resume=True, retry_failed=retried) as file:
            assert [file.has(f"{name}.jpg") for name in "abcd"] == [True, not retried, True, False]
            assert file.failed == 2 - retried
    with NpyFile(path, resume=True, retry_failed=True) as file:
        file.write("b.jpg", vector(3, 4))
    with NpyFile(path, resume=True, retry_failed=True) as file:
        assert (file.has("b.jpg"), file.failed) == (True, 1)
    assert np.load(path).tolist() == [[1, 2], [3, 4]]


def test_an_image_and_its_copy_are_the_most_similar(server: RunningServer, glimpse: Glimpse, photos: Path) -> None:
    image = photos / "astronaut.png"
    ended = glimpse("similar", image, "photos", "--json", "--target", server.target)
    assert ended.returncode == 1
    assert "broken.jpg" in ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [Path(each["path"]).name for each in found[:2]] == ["astronaut.png", "copy.jpg"]
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert found[1]["similarity"] > 0.95 > found[2]["similarity"]
    assert [each["similarity"] for each in found] == sorted((each["similarity"] for each in found), reverse=True)
    near = glimpse("similar", image, "photos", "--threshold", "0.95", "--target", server.target)
    assert len(near.stdout.splitlines()) == 2
    one = glimpse("similar", image, "photos", "--top", "1", "--target", server.target)
    assert one.stdout.split() == ["1.000", "photos/astronaut.png"]


@pytest.mark.parametrize(
    ("image", "why"),
    [("nowhere.jpg", "There is no file nowhere.jpg."), ("photos", "photos cannot be used: Is a directory.")],
)
def test_an_image_to_compare_with_that_is_none_is_told_of(
    image: str, why: str, scripted: ScriptedServer, glimpse: Glimpse, photos: Path
) -> None:
    assert photos.is_dir()
    ended = glimpse("similar", image, "photos", "--target", scripted.target)
    assert ended.returncode == 2
    assert f"Invalid value for IMAGE: {why}" in " ".join(ended.stderr.split())


def test_all_images_are_compared_by_the_version_that_answered_first(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    """A canary answers some of the requests that name no version."""
    asked: list[tuple[str, str]] = []

    def stream(requests: Iterator[pb.ClassifyStreamRequest], _: Context) -> Iterator[pb.ClassifyStreamResponse]:
        for each in requests:
            model = each.request.model
            asked.append((model.name, model.version))
            result = pb.ImageResult(embedding=[1, 1])
            response = pb.ClassifyResponse(model=pb.ModelIdentity(name="m", version=model.version), results=[result])
            yield pb.ClassifyStreamResponse(id=each.id, response=response)

    canary = pb.ModelIdentity(name="m", version="8")
    scripted.classify = lambda *_: pb.ClassifyResponse(model=canary, results=[pb.ImageResult(embedding=[1, 0])])
    scripted.stream = stream
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_text("cat")
    ended = glimpse("similar", "a.jpg", "a.jpg", "b.jpg", "--target", scripted.target)
    assert (ended.returncode, ended.stdout.split()) == (0, ["0.707", "b.jpg", "0.707", "a.jpg"])
    assert asked == [("m", "8"), ("m", "8")]


def test_a_server_without_embeddings_is_told_of(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("cat")
    ended = glimpse("embed", "a.jpg", "--target", scripted.target)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["reason"] == "NO_EMBEDDING"


def test_classify_lets_only_some_classes_answer(server: RunningServer, glimpse: Glimpse, photos: Path) -> None:
    only = ["--only", "cat, dog", "--except", "dog", "--json", "--target", server.target]
    answer = json.loads(glimpse("classify", photos / "chelsea.png", *only).stdout)
    assert [(each["label"], each["probability"]) for each in answer["predictions"]] == [("cat", 1.0)]
    assert 0 <= answer["probability_outside"] < 1
    refused = glimpse("classify", photos / "chelsea.png", "--only", "caat", "--target", server.target)
    assert refused.returncode == 4
    assert "Did you mean cat?" in refused.stderr
