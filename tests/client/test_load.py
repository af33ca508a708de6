"""`glimpse load` from outside, against a server that is fast, slow, full or gone at a test's word."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from glimpse.client.errors import Code
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import Context, ScriptedServer, abort, refusal, response, stream_response

QUICK = ("--warm-up", "0.1", "--quiet")


def load(glimpse: Glimpse, scripted: ScriptedServer, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """The figures of each phase of a run; its exit code is whether images failed in it."""
    file = tmp_path / "figures.json"
    ended = glimpse("load", "--target", scripted.target, "--json", file, *QUICK, *arguments)
    phases: list[dict[str, Any]] = json.loads(file.read_text())["phases"]
    assert ended.returncode == any(phase["errors"] for phase in phases), ended.stderr
    return phases


def test_requests_are_counted_once_and_are_the_pictures_that_the_model_wants(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    [phase] = load(glimpse, scripted, tmp_path, "--requests", "40", "--warm-up", "0", "--callers", "3")
    assert phase["requests"] == phase["classified"] == phase["answered"] == len(scripted.requests) == 40
    assert {(image.raw.height, image.raw.width) for each in scripted.requests for image in each.images} == {(8, 8)}
    assert phase["errors"] == {}
    assert phase["stages"]["compute"] == pytest.approx(0.4)  # as the server says
    assert phase["batch"] == 5


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_photo_behind_an_option_that_writes_is_not_written_over(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path, option: str
) -> None:
    photo = tmp_path / "photo.JPG"
    photo.write_bytes(b"a photo")
    ended = glimpse("load", "--target", scripted.target, "--requests", "1", option, photo)
    assert ended.returncode == 2
    assert option in ended.stderr
    assert "is named as images are" in " ".join(ended.stderr.split())
    assert photo.read_bytes() == b"a photo"
    assert not scripted.requests


def test_the_latency_is_the_servers_and_the_number_of_requests_the_rates(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    def slow(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        time.sleep(0.15)
        return response(request)

    scripted.classify = slow
    [phase] = load(glimpse, scripted, tmp_path, "--rate", "20", "--steady", "--duration", "1")
    assert phase["requests"] == 20
    assert phase["latency"]["p50"] >= 0.15


def test_photos_travel_as_they_are_several_in_a_request(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.jpg").write_text(name)
    [phase] = load(glimpse, scripted, tmp_path, str(tmp_path), "--images-per-call", "3", "--requests", "20")
    assert {len(request.images) for request in scripted.requests} == {3}
    assert {image.encoded for request in scripted.requests for image in request.images} == {b"cat", b"dog"}
    assert phase["images"] == phase["classified"] == 3 * phase["requests"]


def test_broken_images_are_expected_to_be_refused(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    def strict(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        answer = response(request)
        for image, result in zip(request.images, answer.results, strict=True):
            if len(image.raw.data) != 192:
                result.Clear()
                result.error.CopyFrom(pb.ImageError(code=3, reason="RAW_PIXELS_MISMATCH", message="as scripted"))
        return answer

    scripted.classify = strict
    [phase] = load(glimpse, scripted, tmp_path, "--bad", "0.5", "--requests", "60")
    assert phase["errors"] == {}
    assert phase["refused_as_expected"] + phase["classified"] == 60
    assert 10 < phase["refused_as_expected"] < 50


@pytest.mark.parametrize(
    ("flags", "attempts"), [((), 1), (("--retries",), 3)], ids=["by default once", "with --retries again"]
)
def test_a_full_server_is_asked(
    flags: tuple[str, ...], attempts: int, scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    calls: list[int] = []

    def full(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        calls.append(1)
        if len(calls) % 3:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=1)
        return response(request)

    scripted.classify = full
    [phase] = load(glimpse, scripted, tmp_path, "--requests", "9", "--warm-up", "0", *flags)
    assert len(calls) == 9 * attempts
    assert phase["errors"] == ({"QUEUE_FULL": 6} if attempts == 1 else {})


def test_streams_keep_their_window_full_and_tell_refusals_by_reason(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    opened: list[int] = []

    def held_back(requests: Iterator[pb.ClassifyStreamRequest], _: Context) -> Iterator[pb.ClassifyStreamResponse]:
        opened.append(1)
        # Four have to be on their way before the first is answered.
        waiting = [next(requests) for _ in range(4)]
        for request in requests:
            waiting.append(request)
            first = waiting.pop(0)
            if len(waiting) == 4 and int(first.id) % 5 == 4:
                yield refusal(first, Code.RESOURCE_EXHAUSTED, "SHARE_FULL")
            else:
                yield stream_response(first)

    scripted.stream = held_back
    flags = ("--stream", "--window", "5", "--callers", "2", "--requests", "100", "--warm-up", "0", "--timeout", "2")
    [phase] = load(glimpse, scripted, tmp_path, *flags)
    assert len(opened) == 2
    assert phase["generator"]["most_in_flight"] == 10
    # Four of each stream are never answered.
    assert phase["errors"]["DEADLINE_EXCEEDED"] >= 8
    assert phase["errors"]["SHARE_FULL"] == pytest.approx(20, abs=4)
    assert phase["answered"] + sum(phase["errors"].values()) == 100


def test_a_stream_that_breaks_is_opened_anew(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    def short(requests: Iterator[pb.ClassifyStreamRequest], context: Context) -> Iterator[pb.ClassifyStreamResponse]:
        for _ in range(10):
            yield stream_response(next(requests))
        abort(context, grpc.StatusCode.UNAVAILABLE, "DRAINING")

    scripted.stream = short
    [phase] = load(glimpse, scripted, tmp_path, "--stream", "--window", "1", "--requests", "40", "--warm-up", "0")
    assert set(phase["errors"]) <= {"DRAINING", "UNAVAILABLE", "STREAM_BROKE"}
    assert phase["answered"] >= 30
    assert phase["answered"] + sum(phase["errors"].values()) == 40


def test_a_ramp_is_a_phase_a_step_and_each_file_is_written(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    phases = load(
        glimpse,
        scripted,
        tmp_path,
        "--ramp",
        "20:60",
        "--steps",
        "3",
        "--duration",
        "0.6",
        "--steady",
        "--html",
        str(page),
    )
    assert [phase["name"] for phase in phases] == ["20/s", "40/s", "60/s"]
    assert [phase["requests"] for phase in phases] == [4, 8, 12]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_missed_threshold_has_an_exit_code_of_its_own(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(
        '[defaults]\nrequests = 5\n[[phase]]\nname = "fine"\nthresholds = ["errors < 0.1%"]\n'
        '[[phase]]\nname = "strict"\nthresholds = ["p99 < 1 us"]\n'
    )
    ended = glimpse("load", "--target", scripted.target, "--scenario", file, "--quiet")
    assert ended.returncode == 11
    assert ended.stderr == "A threshold was missed.\n"
    assert "  met        errors < 0.1% (was 0.000%)" in ended.stdout
    assert re.search(r"strict: .*\n(  .*\n)*  MISSED     p99 < 1 us", ended.stdout)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ((), 1, "23 of 25 images failed. A threshold such as --threshold 'errors < 1%' says how many may.\n"),
        (("--threshold", "p99 < 60 s"), 1, "23 of 25 images failed. A threshold such as"),
        (("--threshold", "errors <= 92%"), 0, ""),
        (("--threshold", "errors < 92%"), 11, "A threshold was missed.\n"),
    ],
    ids=["no threshold", "a threshold on what was answered", "as many as may", "one too many"],
)
def test_a_run_whose_images_fail_ends_well_only_where_a_threshold_allows_it(
    scripted: ScriptedServer, glimpse: Glimpse, flags: tuple[str, ...], code: int, said: str
) -> None:
    """A run whose images fail ends well only where a threshold on errors allows it."""

    def full(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        if len(scripted.requests) > 2:
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", pushback_ms=-1)
        return response(request)

    scripted.classify = full
    ended = glimpse("load", "--target", scripted.target, "--requests", "25", "--warm-up", "0", "--quiet", *flags)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith(said)
    assert "errors     92.000% of 25 images: QUEUE_FULL 23" in ended.stdout


def test_the_knee_is_searched_with_a_table_of_what_was_tried(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    refused = threading.Event()

    def full(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        refused.set()
        abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")

    scripted.classify = full
    flags = ("--find-knee", "--slo", "1000", "--rate", "100", "--duration", "0.2", "--warm-up", "0", "--quiet")
    ended = glimpse("load", "--target", scripted.target, *flags)
    assert (ended.returncode, ended.stderr) == (11, "No rate held.\n")
    assert "No rate held (p99 <= 1 s, errors <= 0.100%)." in ended.stdout
    assert refused.is_set(), "no rate held, for nothing was sent"


def test_an_interrupted_run_reports_what_it_has(scripted: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    running = subprocess.Popen(
        [
            sys.executable,
            CLI,
            "load",
            "--target",
            scripted.target,
            "--duration",
            "600",
            "--warm-up",
            "0",
            "--json",
            file,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GLIMPSE_CLIENT_CONFIG": ""},
    )
    arrived = threading.Event()

    def interrupt(request: pb.ClassifyRequest, _: Context) -> pb.ClassifyResponse:
        if len(scripted.requests) == 20 and not arrived.is_set():
            arrived.set()
            running.send_signal(signal.SIGINT)
        return response(request)

    scripted.classify = interrupt
    stdout, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"(stopped)" in stdout
    [phase] = json.loads(file.read_text())["phases"]
    assert phase["stopped"]
    assert phase["answered"] >= 19


def test_a_token_travels_with_each_request(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    load(glimpse, scripted, tmp_path, "--requests", "5", "--token-file", str(tmp_path / "token"))
    assert set(scripted.tokens) == {"Bearer secret"}


def test_nobody_there_is_the_exit_code_of_nobody_there(glimpse: Glimpse, nowhere: str) -> None:
    ended = glimpse("load", "--target", nowhere)
    assert (ended.returncode, ended.stdout) == (3, "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--rate", "5", "--callers", "2"), "Give only one of --callers"),
        (("--ramp", "5"), "two rates, written as 10:200"),
        (("--ramp", "0:5"), "Rates are above 0"),
        (("--steady",), "It needs --rate or --ramp"),
        (("--find-knee",), "Each of the two needs the other"),
        (("--slo", "5"), "Each of the two needs the other"),
        (("--find-knee", "--slo", "5", "--callers", "1"), "It raises the rate by itself"),
        (("--stream", "--retries"), "nothing is repeated on a stream"),
        (("--scenario", "no.toml", "--duration", "5"), "stand in the scenario file"),
        (("--scenario", "no.toml"), "no.toml cannot be used: No such file or directory."),
        (("--threshold", "quick"), "is written like"),
        (("no.jpg",), "There is no file no.jpg."),
        (("no*.jpg",), "No file matches the pattern no*.jpg."),
        (("https://example.org/cat.jpg",), "This is a URL, and only files are read."),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(
    arguments: tuple[str, ...], complaint: str, scripted: ScriptedServer, glimpse: Glimpse
) -> None:
    ended = glimpse("load", "--target", scripted.target, *arguments)
    assert ended.returncode == 2
    assert complaint in " ".join(ended.stderr.split())
    assert scripted.requests == []


def test_the_command_line_starts_without_the_load_package() -> None:
    script = f"""
import runpy, sys
sys.argv = [{str(CLI)!r}, "load", "--help"]
try:
    runpy.run_path({str(CLI)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write(" ".join(sys.modules))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())
    of_load = {name for name in loaded if name.startswith("glimpse.client.load.")}
    assert of_load == {"glimpse.client.load.command", "glimpse.client.load.options"}
    assert loaded.isdisjoint({"grpc", "rich", "glimpse.v1", "google.protobuf", "asyncio"})
