"""The command line from outside: what a shell gives it, what comes out, and the code it ends with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.client.errors import Code
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import DESCRIPTION, Context, ScriptedServer, abort, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


def write(folder: Path, **contents: str) -> list[Path]:
    """Files named after the keywords; their content is the label that the scripted server gives them."""
    paths = [folder / f"{name}.jpg" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(content)
    return paths


def test_json_is_one_object_a_line_with_the_documented_keys(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    [photo] = write(tmp_path, photo="cat")
    ended = glimpse("classify", photo, "--json", "--target", scripted.target)

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert json.loads(ended.stdout) == {
        "path": str(photo),
        "predictions": [
            {"label": "cat", "index": 0, "probability": 0.75, "class_id": "n0"},
            {"label": "other", "index": 1, "probability": 0.25},
        ],
        "error": None,
        "model": {"name": "scripted", "version": "7", "weights_digest": "sha256:abc"},
    }
    assert ended.stdout.count("\n") == 1


def test_images_keep_their_order_though_answers_overtake(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    def last_first(requests: Requests, _: Context) -> Responses:
        group = [next(requests) for _ in range(6)]
        yield from map(stream_response, reversed(group))
        yield from map(stream_response, requests)

    scripted.stream = last_first
    photos = write(tmp_path, **{f"photo{n}": f"label{n}" for n in range(6)})
    ended = glimpse("classify", *reversed(photos), "--json", "--target", scripted.target)

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["predictions"][0]["label"] for line in lines] == [f"label{n}" for n in reversed(range(6))]
    assert [line["path"] for line in lines] == [str(photo) for photo in reversed(photos)]


def test_what_fails_is_reported_in_its_place_and_the_others_are_classified(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    good, bad, last = write(tmp_path, good="cat", bad="bad bytes", last="dog")
    ended = glimpse(
        "classify", good, tmp_path / "gone.jpg", bad, "no*match", last, "--json", "--target", scripted.target
    )

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 1
    assert [line["error"] and line["error"]["reason"] for line in lines] == [
        None,
        "FILE_NOT_FOUND",
        "NOT_AN_IMAGE",
        "FILE_NOT_FOUND",
        None,
    ]
    assert lines[2]["error"] == {"code": 3, "reason": "NOT_AN_IMAGE", "message": "bad bytes is no image."}
    assert lines[2]["predictions"] == []
    assert lines[1]["model"] is None


def test_people_get_a_block_of_bars_for_each_image_and_errors_in_place(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, good="cat", worse="bad bytes")
    ended = glimpse("classify", "good.jpg", "worse.jpg", "--target", scripted.target)

    lines = ended.stdout.splitlines()
    assert lines[0] == "good.jpg"
    assert lines[1].split() == ["cat", "█" * 24, "75.0%"]
    assert lines[2].split() == ["other", "█" * 8, "25.0%"]
    assert lines[4:6] == ["worse.jpg", "  NOT_AN_IMAGE: bad bytes is no image."]
    assert ended.stderr == "1 image could not be classified.\n"
    assert ended.returncode == 1


def test_names_and_labels_cannot_drive_the_terminal(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J[bold].jpg").write_text("\x1b]0;owned\x07[red]cat")
    ended = glimpse("classify", ".", "--target", scripted.target)

    assert "\x1b" not in ended.stdout
    assert "\x07" not in ended.stdout
    assert "[bold].jpg" in ended.stdout
    assert "[red]cat" in ended.stdout


def test_a_name_that_is_no_text_is_still_classified(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    Path(str(tmp_path) + "/\udcff.jpg").write_text("cat")
    for options in (("--json",), ()):
        ended = glimpse("classify", ".", *options, "--target", scripted.target)
        assert ended.returncode == 0, ended.stderr
        assert "cat" in ended.stdout


def test_a_folder_and_a_pattern_are_searched(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "album" / "deep").mkdir(parents=True)
    write(tmp_path / "album" / "deep", one="cat")
    write(tmp_path, two="dog", three="cow")
    ended = glimpse("classify", "album", "t*.jpg", "--json", "--target", scripted.target)

    paths = [json.loads(line)["path"] for line in ended.stdout.splitlines()]
    assert paths == ["album/deep/one.jpg", "three.jpg", "two.jpg"]


def test_of_a_folder_without_an_image_it_is_said_that_there_is_none(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "photo.tiff").write_text("cat")
    write(tmp_path, photo="dog")
    ended = glimpse("classify", "d", "photo.jpg", "--json", "--target", scripted.target)
    one, other = (json.loads(line) for line in ended.stdout.splitlines())
    assert one["error"]["reason"] == "NO_IMAGE_IN_FOLDER"
    assert "no image with one of these suffixes in d: .apng, .bmp, .dib" in one["error"]["message"]
    assert other["error"] is None
    assert ended.returncode == 1
    ended = glimpse("load", "--target", scripted.target, "--requests", "1", "d")
    assert ended.returncode == 2
    assert "no image with one of these suffixes in d" in " ".join(ended.stderr.split())


def test_the_standard_input_is_an_image_among_the_others(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, photo="dog")
    ended = glimpse("classify", "-", "photo.jpg", "--json", "--target", scripted.target, stdin=b"cat")

    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(line["path"], line["predictions"][0]["label"]) for line in lines] == [("-", "cat"), ("photo.jpg", "dog")]


def test_options_reach_the_server(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    seen: list[pb.ClassifyRequest] = []

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            seen.append(request.request)
            yield stream_response(request)

    scripted.stream = stream
    [photo] = write(tmp_path, photo="cat")
    options = ["--top-k", "1", "--min-probability", "0.5", "--model", "other", "--model-version", "2"]
    options += ["--geometry", "pad"]
    ended = glimpse("classify", photo, *options, GLIMPSE_TARGET=scripted.target)

    assert ended.returncode == 0, ended.stderr
    assert seen[0].options == pb.ClassifyOptions(top_k=1, min_probability=0.5, geometry="pad")
    assert seen[0].model == pb.ModelSelector(name="other", version="2")


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (Code.INVALID_ARGUMENT, "TOP_K_OUT_OF_RANGE", 4),
        (Code.NOT_FOUND, "MODEL_NOT_FOUND", 4),
        (Code.UNAVAILABLE, "DRAINING", 3),
    ],
)
def test_a_refused_request_ends_with_the_code_of_its_cause(
    scripted: ScriptedServer, glimpse: Glimpse, code: Code, reason: str, exit_code: int
) -> None:
    scripted.stream = lambda requests, _: (
        pb.ClassifyStreamResponse(id=each.id, error=pb.RequestError(code=code, reason=reason, message="as scripted"))
        for each in requests
    )
    ended = glimpse("classify", "-", "--json", "--target", scripted.target, stdin=b"cat")

    assert (ended.returncode, ended.stdout) == (exit_code, "")
    assert ended.stderr == f"Error: as scripted [{reason}]\n"


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, 4),
        (grpc.StatusCode.UNAUTHENTICATED, 9),
        (grpc.StatusCode.PERMISSION_DENIED, 9),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 5),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 6),
        (grpc.StatusCode.INTERNAL, 7),
    ],
)
def test_every_cause_has_its_exit_code(
    scripted: ScriptedServer, glimpse: Glimpse, status: grpc.StatusCode, exit_code: int
) -> None:
    scripted.describe = lambda _, context: abort(context, status, "SOME_REASON", pushback_ms=-1)
    ended = glimpse("describe", "--target", scripted.target)

    assert (ended.returncode, ended.stdout) == (exit_code, "")
    assert "as scripted [SOME_REASON]" in ended.stderr


@pytest.mark.parametrize("command", [["describe"], ["classify", "-"]], ids=lambda command: command[0])
def test_without_a_server_there_is_a_hint_and_no_traceback(glimpse: Glimpse, nowhere: str, command: list[str]) -> None:
    ended = glimpse(*command, "--target", nowhere, stdin=b"cat")

    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(f"No Glimpse server answers at {nowhere}; start one with `make serve`")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["classify"], ["classify", "-", "-"], ["classify", "x", "--top-k", "many"], ["unknown"]]
)
def test_a_wrong_command_line_ends_with_2(glimpse: Glimpse, arguments: list[str]) -> None:
    ended = glimpse(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Error" in ended.stderr


def test_a_silent_server_ends_with_the_timeout(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    over = threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        over.wait(60)
        yield from ()

    scripted.stream = stream
    ended = glimpse("classify", "-", "--timeout", "0.2", "--target", scripted.target, stdin=b"cat")
    over.set()
    assert ended.returncode == 6


def test_a_reader_who_leaves_ends_the_command_quietly(scripted: ScriptedServer, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}.jpg").write_text("cat")
    for options in (["--json"], []):
        command = [sys.executable, str(CLI), "classify", str(tmp_path), "--target", scripted.target, *options]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        running.stderr.close()
        assert running.wait(60) == 141


def test_ctrl_c_ends_with_130_and_no_traceback(scripted: ScriptedServer) -> None:
    arrived, over = threading.Event(), threading.Event()

    def stream(requests: Requests, _: Context) -> Responses:
        next(requests)
        arrived.set()
        over.wait(60)
        yield from ()

    scripted.stream = stream
    command = [sys.executable, str(CLI), "classify", "-", "--target", scripted.target]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background shells have it ignored
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    assert running.stdin is not None
    running.stdin.write(b"cat")
    running.stdin.close()
    assert arrived.wait(60)
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()
    over.set()
    assert running.wait(60) == 130


def test_a_description_for_people_has_stages_that_add_up(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    ended = glimpse("describe", "--target", scripted.target)

    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["stem", "convolution", "1", "8", "x", "8", "x", "16", "1,000", "64,000"] in lines
    assert ["total", "1,234", "64,200"] in lines
    said = " ".join(ended.stdout.split())
    assert "tensorflow on cpu, float32 (bfloat16: same first class as float32 on 90.0% of 200 test pictures)" in said
    for shown in ("parameters", "8 x 8 x 3", "crop 0.875", "bicubic", "2: cat, dog", "tensorflow on cpu", "JPEG, PNG"):
        assert shown in ended.stdout


def test_a_description_in_a_pipe_is_neither_padded_nor_wrapped(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    lines = glimpse("describe", "--target", scripted.target, COLUMNS="20").stdout.splitlines()

    assert "architecture\tplain2 (test)" in lines
    assert 'options\talpha=0.25, stem="handbook"' in lines or 'options\tstem="handbook", alpha=0.25' in lines
    assert "stem\tconvolution\t1\t8 x 8 x 16\t1,000\t64,000" in lines
    assert lines[-1] == "total\t\t\t\t1,234\t64,200"
    assert [line for line in lines if line.endswith(" ") or "  " in line] == []
    assert max(map(len, lines)) > 100


def test_a_description_for_programs_has_all_that_the_wire_holds(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    ended = glimpse("describe", "--json", "--target", scripted.target)

    described = json.loads(ended.stdout)
    assert set(described) == {*DESCRIPTION.DESCRIPTOR.fields_by_name, "multiply_adds"}
    assert (described["parameters"], described["multiply_adds"]) == (1234, 64_200)
    for part in ("pre_stem", "runtime", "limits", "input", "model"):
        assert set(described[part]) == set(getattr(DESCRIPTION, part).DESCRIPTOR.fields_by_name)
    assert described["limits"]["max_image_pixels"] == 2_000_000
    assert described["options"] == {"alpha": 0.25, "stem": "handbook"}
    assert described["runtime"]["agreement"] == {"precision": "bfloat16", "top1": 0.9, "pictures": 200, "unclear": 7}


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "a.jpg", "--timeout", "nan"),
        ("similar", "a.jpg", "b.jpg", "--threshold", "nan"),
        ("sort", "a.jpg", "--into", "sorted", "--min-probability", "nan"),
        ("load", "--rate", "5", "--duration", "nan"),
    ],
)
def test_what_is_not_a_number_is_refused_although_it_is_in_no_range(
    scripted: ScriptedServer, glimpse: Glimpse, arguments: tuple[str, ...]
) -> None:
    ended = glimpse(*arguments, "--target", scripted.target)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert arguments[-2] in ended.stderr


def test_a_timeout_without_end_is_taken(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    write(tmp_path, photo="cat")
    ended = glimpse("classify", "photo.jpg", "--timeout", "inf", "--target", scripted.target)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_lone_image_that_cannot_be_classified_has_the_code_of_images(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    """It is no fault of the server."""
    write(tmp_path, one="bad image", other="cat")
    ended = glimpse("similar", "one.jpg", "other.jpg", "--target", scripted.target)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "NOT_AN_IMAGE" in ended.stderr


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_that_cannot_be_written_is_known_before_the_test(
    scripted: ScriptedServer, glimpse: Glimpse, option: str
) -> None:
    ended = glimpse("load", "--requests", "1", option, "missing/report", "--target", scripted.target)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "There is no folder missing." in ended.stderr
    assert not scripted.requests


def test_in_a_pipe_or_a_file_no_line_is_wrapped_or_padded(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    """So that a command in a message can be copied, and a message be found."""
    write(tmp_path, photo="cat")
    address = f"https://example.org/{'long-' * 40}cat.jpg"
    ended = glimpse("classify", "photo.jpg", address, "--target", scripted.target)
    assert any(address in line and line.endswith("classify -") for line in ended.stdout.splitlines())
    assert [line for line in ended.stdout.splitlines() if line != line.rstrip()] == []
    glimpse("classify", "photo.jpg", address, "-o", "answers.txt", "--target", scripted.target)
    assert (tmp_path / "answers.txt").read_text() == ended.stdout
