"""Answers as CSV and in a file, and what a run goes on with."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse.client.commands.output import File, open_alone
from glimpse.client.commands.records import Csv, Format, JsonLines
from glimpse.client.errors import Code
from glimpse.client.results import ImageResult, ModelIdentity, Prediction
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import Glimpse, album
from tests.client.scripted import Context, ScriptedServer, refusal, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


def test_csv_has_a_line_for_each_image_with_its_classes_side_by_side(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / 'a "strange",\nname.jpg').write_text("cat")
    (tmp_path / "b.jpg").write_text("bad one")
    ended = glimpse("classify", ".", "--csv", "--top-k", "3", "--target", scripted.target)

    header, first, second = csv.reader(io.StringIO(ended.stdout, newline=""))
    assert header == [
        *("path", "label_1", "probability_1", "label_2", "probability_2", "label_3", "probability_3"),
        *("error", "code", "message", "model", "version", "class_id_1", "class_id_2", "class_id_3", "labels"),
    ]
    assert first == [
        """'./a "strange",\\x0aname.jpg""",  # as `client.commands.csv_cells` has it
        *("cat", "0.75", "other", "0.25", "", "", "", "", "", "scripted", "7", "n0", "", "", ""),
    ]
    assert second[1:7] == [""] * 6
    assert second[7:10] == ["NOT_AN_IMAGE", "3", "bad one is no image."]
    assert (ended.returncode, ended.stderr) == (1, "")


def test_an_image_is_not_written_over_by_answers(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for photo in photos:
        photo.write_bytes(b"a photo")
    ended = glimpse("classify", "--target", scripted.target, "-o", *photos)
    assert ended.returncode == 2
    assert "is named as images are" in " ".join(ended.stderr.replace("│", " ").split())
    assert [photo.read_bytes() for photo in photos] == [b"a photo"] * 2


def test_a_file_gets_what_the_standard_output_would(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    album(tmp_path / "album", 5)
    for options in (["--json"], ["--csv"], []):
        ended = glimpse("classify", "album", *options, "--target", scripted.target)
        into = glimpse("classify", "album", *options, "-o", "answers", "--target", scripted.target)
        assert (into.returncode, into.stdout, into.stderr) == (0, "", "5 answers written to answers.\n")
        assert (tmp_path / "answers").read_text() == ended.stdout
        (tmp_path / "answers").unlink()


def test_a_file_that_holds_something_is_not_written_over(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    album(tmp_path / "album", 1)
    (tmp_path / "answers").write_text("the work of a night")
    for options in ([], ["--resume"]):
        ended = glimpse("classify", "album", "--json", "-o", "answers", *options, "--target", scripted.target)
        assert ended.returncode == 2
        assert re.search(r"answers (exists already|is not the output)", " ".join(ended.stderr.split()))
        assert (tmp_path / "answers").read_text() == "the work of a night"


def answer(number: int) -> tuple[str, ImageResult]:
    """Every third image failed, every second has a name that tries the format."""
    path = f'album/"{number}",\n\udcff.jpg' if number % 2 else f"album/{number}.jpg"
    if number % 3 == 0:
        return path, ImageResult.failed(Code.INVALID_ARGUMENT, "NOT_AN_IMAGE", 'It is "no" image,\nsorry.')
    return path, ImageResult((Prediction(3, "cat", 0.75),), model=ModelIdentity("scripted", "7", "sha256:abc"))


@pytest.mark.parametrize("form", [JsonLines(), Csv(2)], ids=["JSON", "CSV"])
def test_resuming_repairs_a_file_that_was_torn_anywhere(tmp_path: Path, form: Format) -> None:
    answers = [answer(number) for number in range(4)]
    file = tmp_path / "answers"
    with File(file, form) as complete:
        complete.start()
        for path, result in answers:
            complete.write(path, result)
    whole = file.read_bytes()

    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with File(file, form) as resumed:
            resumed.resume(retry_failed=False)
            had = [resumed.has(path) for path, _ in answers]
            assert had == sorted(had, reverse=True), "what is missing is missing at the end"
            for path, result in answers:
                if not resumed.has(path):
                    resumed.write(path, result)
            assert resumed.failed == 2, "whichever run it failed in"
        assert file.read_bytes() == whole, f"torn at {size}"


@pytest.mark.parametrize("form", [JsonLines(), Csv(2)], ids=["JSON", "CSV"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"the work of a night", id="a text"),
        pytest.param(b"\xff\xd8\xff\xe0 and so on", id="a photo"),
        pytest.param(b'{"path": 5, "error": null}\n', id="other JSON"),
        pytest.param(b'{"path": "a.jpg"}\n', id="half of ours"),
        pytest.param(b"path,label_1,probability_1,error,code,message,model,version\n", id="other columns"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, form: Format, content: bytes) -> None:
    file = tmp_path / "answers"
    file.write_bytes(content)
    with File(file, form) as other, pytest.raises(ValueError, match="left as it is"):
        other.resume(retry_failed=True)
    assert file.read_bytes() == content


def test_a_finished_file_asks_the_server_nothing(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    album(tmp_path / "album", 3)
    command = ["classify", "album", "--json", "-o", "answers", "--target", scripted.target]
    ended = glimpse(*command, "--resume")
    assert ended.returncode == 0, "there is nothing to go on with, and that is no mistake"
    assert ended.stderr == "3 answers written to answers.\n"
    calls = len(scripted.tokens)
    ended = glimpse(*command, "--resume")
    assert ended.returncode == 0
    assert ended.stderr == "answers has the answers already; nothing was left to do. It holds 3 answers.\n"
    assert len(scripted.tokens) == calls
    (tmp_path / "album" / "later.jpg").write_text("cat")
    assert glimpse(*command, "--resume").stderr == "1 answer added to answers, which now holds 4 answers.\n"


def test_a_table_with_another_number_of_classes_is_refused_with_what_to_do(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "cat.jpg").write_text("cat")
    command = ["classify", "cat.jpg", "--csv", "-o", "answers.csv", "--target", scripted.target]
    assert glimpse(*command).returncode == 0
    ended = glimpse(*command, "--resume", "--top-k", "2")
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 2
    assert "answers.csv is not the output of this command with these options: it has other columns." in said
    assert "Use the same options as in the run that wrote it" in said


def test_what_failed_for_a_passing_reason_is_tried_again_when_asked_for(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    paths = album(tmp_path / "album", 6)
    (tmp_path / "album" / "bad.jpg").write_text("bad bytes")

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            label = request.request.images[0].encoded
            if label == b"label 2":
                yield refusal(request, Code.INTERNAL, "INTERNAL")
            else:
                yield stream_response(request)

    scripted.stream = stream
    for form in ("--json", "--csv"):
        command = ["classify", "album", "gone.jpg", form, "-o", f"answers{form}", "--target", scripted.target]
        scripted.stream = stream
        assert "3 images could not" in glimpse(*command).stderr
        assert "3 images could not" in glimpse(*command, "--resume").stderr, "only when asked for"
        scripted.stream = lambda requests, _: map(stream_response, requests)
        (tmp_path / "gone.jpg").write_text("back again")
        ended = glimpse(*command, "--resume", "--retry-failed")
        assert "1 image could not" in ended.stderr
        (tmp_path / "gone.jpg").unlink()
        assert sorted(tmp_path.glob(".answers*")) == []
    answers = [json.loads(line) for line in (tmp_path / "answers--json").read_text().splitlines()]
    assert Counter(answer["path"] for answer in answers) == Counter(
        [*(str(Path(path).relative_to(tmp_path)) for path in paths), "album/bad.jpg", "gone.jpg"]
    )
    assert [answer["error"]["reason"] for answer in answers if answer["error"]] == ["NOT_AN_IMAGE"]


def test_two_runs_do_not_write_one_file(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    album(tmp_path / "album", 1)
    with open_alone(tmp_path / "answers"):
        ended = glimpse("classify", "album", "--json", "-o", "answers", "--resume", "--target", scripted.target)
    assert ended.returncode == 2
    assert "Another run is writing answers" in ended.stderr


def test_a_full_disk_ends_with_its_own_code(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a disk that is always full")
    album(tmp_path / "album", 3)
    ended = glimpse("classify", "album", "--json", "-o", "/dev/full", "--target", scripted.target)
    assert (ended.returncode, ended.stderr) == (10, "Error: /dev/full cannot be written: No space left on device.\n")


@pytest.mark.parametrize(
    "options",
    [
        ["--json", "--csv"],
        ["--resume"],
        ["--json", "--resume"],
        ["-o", "answers", "--resume"],
        ["--json", "-o", "answers", "--retry-failed"],
        ["--json", "-o", "no/such/folder/answers"],
        ["--in-flight", "0"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_together_are_refused(glimpse: Glimpse, nowhere: str, options: list[str]) -> None:
    ended = glimpse("classify", "photo.jpg", *options, "--target", nowhere)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Error" in ended.stderr


def test_no_more_images_are_under_way_than_asked_for(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    album(tmp_path / "album", 9)
    groups = []

    def stream(requests: Requests, _: Context) -> Responses:
        # Nothing is answered before three are there: with fewer in flight this would wait for ever.
        while group := [request for _, request in zip(range(3), requests, strict=False)]:
            groups.append(len(group))
            yield from map(stream_response, group)

    scripted.stream = stream
    ended = glimpse("classify", "album", "--json", "--in-flight", "3", "--target", scripted.target)
    assert ended.returncode == 0, ended.stderr
    assert groups == [3, 3, 3]
