"""A long run into a file: it may be interrupted whenever, and its memory does not grow."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import CLI, Glimpse, album, paths_in
from tests.client.scripted import Context, ScriptedServer, abort, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


def interrupted(command: list[str], file: Path, moments: random.Random, count: int) -> list[int]:
    """Interrupt runs in turn by SIGKILL and SIGINT at random moments, then let one finish; how far each one came."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background with it ignored
    reached = []
    for number in range(5):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        before = file.read_bytes().count(b"\n") if file.exists() else 0
        enough = before + moments.randrange(1, count // 5)
        while running.poll() is None and (file.read_bytes().count(b"\n") if file.exists() else 0) < enough:
            time.sleep(0.005)
        how = signal.SIGKILL if number % 2 else signal.SIGINT
        running.send_signal(how)
        _, said = running.communicate()
        assert (running.returncode, said) == (-signal.SIGKILL if number % 2 else 130, "")
        reached.append(file.read_bytes().count(b"\n"))
    last = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert last.returncode == 0
    assert last.stderr.endswith(f", which now holds {count:,} answers.\n")
    return reached


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_run_interrupted_at_random_moments_answers_each_file_exactly_once(
    scripted: ScriptedServer, tmp_path: Path, count: int
) -> None:
    paths = album(tmp_path / "album", count)
    file = tmp_path / "answers.jsonl"
    seed = random.randrange(2**32)

    def stream(requests: Requests, _: Context) -> Responses:
        for request in requests:
            time.sleep(0.0005)  # long enough that there is a middle to be interrupted in
            yield stream_response(request)

    scripted.stream = stream
    command = [sys.executable, str(CLI), "classify", str(tmp_path / "album"), "--json", "--resume", "-o", str(file)]
    reached = interrupted([*command, "--target", scripted.target], file, random.Random(seed), count)

    assert paths_in(file) == paths, f"with seed {seed}"
    assert 0 < reached[0] < count
    assert reached == sorted(reached)


def test_a_run_that_the_server_ended_goes_on_another_time(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    paths = album(tmp_path / "album", 100)

    def stream(requests: Requests, context: Context) -> Responses:
        for number, request in enumerate(requests):
            if number == 40:
                abort(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
            yield stream_response(request)

    scripted.stream = stream
    command = ["classify", str(tmp_path / "album"), "--json", "-o", "answers", "--resume", "--target", scripted.target]
    assert glimpse(*command).returncode == 3
    assert paths_in(tmp_path / "answers") == paths[:40]
    scripted.stream = lambda requests, _: map(stream_response, requests)
    assert glimpse(*command).returncode == 0
    assert paths_in(tmp_path / "answers") == paths


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(scripted: ScriptedServer, tmp_path: Path) -> None:
    album(tmp_path / "few", 2_000)
    album(tmp_path / "many", 10_000)
    script = f"""
import resource, runpy, sys
try:
    runpy.run_path({str(CLI)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for name in ("few", "many"):
        command = [
            sys.executable,
            "-c",
            script,
            "classify",
            str(tmp_path / name),
            "--json",
            "-o",
            str(tmp_path / "out"),
        ]
        ended = subprocess.run([*command, "--target", scripted.target], capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout))
        assert len(paths_in(tmp_path / "out")) == {"few": 2_000, "many": 10_000}[name]
        (tmp_path / "out").unlink()
    # The names of one portion are held, 100 bytes each; 8,000 more images or answers would be several times that.
    assert peaks[1] - peaks[0] < 4_000, f"{peaks} KiB"
