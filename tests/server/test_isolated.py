"""Decoding in processes of its own: real processes, real signals, and one lost process costs one image."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.decode import FORMATS
from glimpse.server.decoding.isolated import Isolated
from glimpse.server.decoding.prepare import Prepared, prepare
from glimpse.server.errors import InternalError, InvalidImageError, Reason, UnavailableError
from tests.conftest import ROOT
from tests.server.isolation import (
    LIMITS,
    MIB,
    PHOTO,
    PNG,
    RECIPE,
    SECONDS,
    Make,
    assert_nothing_kept,
    encoded,
    gone,
    held_up,
    one_colour,
    pools,
    unread,
    until,
)
from tests.server.threadless import without_threads


@pytest.fixture
def make() -> Iterator[Make]:
    """Start pools of a test's own; they are closed with it."""
    with pools() as start:
        yield start


@pytest.fixture(scope="module")
def pool() -> Iterator[Isolated]:
    """Two processes that no test ends."""
    with pools() as start:
        yield start(2)


def outcome(run: Callable[[], Prepared]) -> tuple[Reason, str, str] | bytes:
    try:
        return run().pixels.tobytes()
    except InvalidImageError as error:
        return error.reason, error.message, error.field


@pytest.mark.parametrize("form", FORMATS)
def test_the_pixels_are_those_that_the_same_process_would_have_made(pool: Isolated, form: str) -> None:
    isolated, direct = pool(encoded(form), RECIPE), prepare(encoded(form), RECIPE, LIMITS)
    assert isolated.pixels.shape == (48, 64, 3)
    assert isolated.pixels.dtype == np.uint8
    assert np.array_equal(isolated.pixels, direct.pixels)


def test_raw_pixels_and_another_recipe_go_the_same_way(pool: Isolated) -> None:
    image = domain.RawImage(PHOTO.height, PHOTO.width, PHOTO.tobytes())
    other = Recipe(height=224, width=200, geometry="letterbox", fill=(1, 2, 3))
    assert np.array_equal(pool(image, other).pixels, prepare(image, other, LIMITS).pixels)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (domain.EncodedImage(b""), Reason.EMPTY_IMAGE),
        (domain.EncodedImage(bytes(LIMITS.max_bytes + 1)), Reason.IMAGE_BYTES_EXCEEDED),
        (one_colour(4001), Reason.IMAGE_PIXELS_EXCEEDED),
        (domain.EncodedImage("süß".encode()), Reason.NOT_AN_IMAGE),
        (domain.EncodedImage(b"8BPS" + bytes(30)), Reason.UNSUPPORTED_FORMAT),
        (domain.EncodedImage(encoded("JPEG").data[:2000]), Reason.TRUNCATED_IMAGE),
        (domain.EncodedImage(PNG.data[:60] + b"\xff" * 40 + PNG.data[100:]), Reason.CORRUPT_IMAGE),
        (domain.RawImage(2, 2, bytes(11)), Reason.RAW_PIXELS_MISMATCH),
        (domain.RawImage(2**32 - 1, 2**32 - 1, b""), Reason.IMAGE_PIXELS_EXCEEDED),
    ],
)
def test_a_refusal_is_the_same_word_for_word(pool: Isolated, image: domain.Image, reason: Reason) -> None:
    direct = outcome(lambda: prepare(image, RECIPE, LIMITS))
    assert direct[0] is reason
    assert outcome(lambda: pool(image, RECIPE)) == direct


@settings(max_examples=200, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.floats(0, 1),
)
def test_a_mutated_file_ends_the_same_way_in_both(
    pool: Isolated, form: str, edits: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(encoded(form, PHOTO.resize((60, 40))).data)
    for where, what in edits:
        at = int(where * len(data))
        data[at : at + len(what)] = what
    image = domain.EncodedImage(bytes(data[: int(cut * len(data)) + 1]))
    assert outcome(lambda: pool(image, RECIPE)) == outcome(lambda: prepare(image, RECIPE, LIMITS))
    assert pool.restarts == 0


def test_many_threads_share_few_processes(pool: Isolated) -> None:
    images = [encoded("PNG", PHOTO.rotate(angle)) for angle in range(64)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda image: pool(image, RECIPE).pixels, images))
    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(answer, prepare(image, RECIPE, LIMITS).pixels)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_dies_costs_its_own_image_alone(make: Make, number: signal.Signals) -> None:
    pool = make(2)
    first, second = pool.pids
    for pid in (first, second):
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(pool, PNG, RECIPE) for _ in range(2)]
        until(lambda: unread(pool, first) and unread(pool, second))
        os.kill(first, number)
        for pid in (first, second):
            os.kill(pid, signal.SIGCONT)
        outcomes = [answer.exception(SECONDS) for answer in answers]
    (error,) = (each for each in outcomes if each is not None)
    assert isinstance(error, InvalidImageError)
    assert (error.reason, error.field) == (Reason.DECODER_FAILED, "encoded")
    assert number.name in error.message
    assert pool.restarts == 1
    assert second in pool.pids
    assert np.array_equal(pool(PNG, RECIPE).pixels, prepare(PNG, RECIPE, LIMITS).pixels)


def test_what_a_process_said_before_dying_is_in_the_log_and_not_told_to_callers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glimpse.server.decoding.process._MODULE", "tests.server.crashing_decoder")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where tests are found
    pool = make()
    with structlog.testing.capture_logs() as lines, pytest.raises(InvalidImageError) as refused:
        pool(PNG, RECIPE)
    (replaced,) = (line for line in lines if line["event"] == "decoder process replaced")
    assert (replaced["cause"], replaced["said"]) == ("it was ended by SIGABRT", "free(): invalid pointer")
    assert "invalid pointer" not in refused.value.message


def test_a_process_that_dies_with_nothing_to_do_costs_nothing(make: Make) -> None:
    pool = make()
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    until(partial(gone, pid))
    assert pool(PNG, RECIPE).pixels.shape == (48, 64, 3)
    assert pool.restarts == 1


def test_images_go_to_other_processes_where_one_cannot_be_replaced(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no room for it, and the one that ended was to have the next image."""

    def no_room(*_: object) -> NoReturn:
        raise BlockingIOError("no room for another process")

    pool = make(2)
    pid = pool.pids[-1]
    os.kill(pid, signal.SIGKILL)
    until(partial(gone, pid))
    monkeypatch.setattr("glimpse.server.decoding.isolated.DecoderProcess", no_room)
    monkeypatch.setattr("glimpse.server.decoding.isolated._RETRY_SECONDS", SECONDS)
    with pytest.raises(InternalError):
        pool(PNG, RECIPE)
    for _ in range(3):
        assert pool(PNG, RECIPE).pixels.shape == (48, 64, 3)


def test_a_process_without_a_thread_to_read_what_it_says_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Isolated(LIMITS, workers=1, memory_bytes=256 * MIB, seconds=SECONDS)
    with without_threads(monkeypatch) as begun, pytest.raises(RuntimeError, match=r"Cannot start a decoder .* thread"):
        pool.start()
    assert [each.poll() for each in begun] == [-signal.SIGKILL]


def test_an_image_that_takes_too_long_is_given_up(make: Make) -> None:
    pool = make(seconds=0.5)
    image = domain.RawImage(PHOTO.height, PHOTO.width, PHOTO.tobytes())
    with held_up(pool, image) as (pid, answer):
        error = answer.exception(SECONDS)
    assert isinstance(error, InvalidImageError)
    assert (error.reason, error.field) == (Reason.DECODER_FAILED, "raw.data")
    assert "more than 0.5 s" in error.message
    assert gone(pid)
    assert pool.restarts == 1
    assert pid not in pool.pids


def test_a_process_that_takes_nothing_more_is_given_up(make: Make) -> None:
    pool = make(seconds=0.5)
    (pid,) = pool.pids
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(InvalidImageError, match=r"more than 0\.5 s"):
        pool(domain.EncodedImage(bytes(LIMITS.max_bytes)), RECIPE)  # more than fits into the connection
    assert gone(pid)


def test_an_image_that_needs_too_much_memory_is_refused_and_its_process_goes_on(make: Make) -> None:
    pool = make(memory_bytes=32 * MIB)
    pids = pool.pids
    for _ in range(3):
        with pytest.raises(InvalidImageError, match=f"more than {32 * MIB} bytes of memory") as refused:
            pool(one_colour(4000), RECIPE)
        assert refused.value.reason is Reason.DECODER_FAILED
        assert pool(PNG, RECIPE).pixels.shape == (48, 64, 3)
    assert pool.pids == pids
    assert make().__call__(one_colour(4000), RECIPE).pixels.shape == (48, 64, 3)  # with more memory it is an image


def test_signals_that_are_for_the_server_do_not_end_its_processes(make: Make) -> None:
    pool = make()
    (pid,) = pool.pids
    assert os.getpgid(pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert pool(PNG, RECIPE).pixels.shape == (48, 64, 3)
    assert pool.pids == [pid]


def test_a_process_has_only_a_connection_of_the_server_and_no_framework(make: Make) -> None:
    """A process has nothing of the server but its connection, and no framework."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.set_inheritable(True)
        (pid,) = make().pids
        held = {file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()}
        assert Path(f"/proc/self/fd/{port.fileno()}").readlink() not in held
    assert sum(file.name.startswith("socket:") for file in held) == 1
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "PIL" in mapped
    assert not any(name in mapped for name in ("tensorflow", "grpc", "protobuf", "pydantic"))
    assert Path(f"/proc/{pid}/task").stat().st_nlink == 3  # one thread


KILLED = """
import sys, threading
sys.path[:0] = [{root!r}]
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding import process
from glimpse.server.decoding.isolated import Isolated
from glimpse.models.decoding.limits import ImageLimits

process._MODULE = "tests.server.hung_decoder"
pool = Isolated(ImageLimits(2_000_000, 16_000_000), workers=2, memory_bytes=256 << 20, seconds=600)
pool.start()
for _ in pool.pids:
    threading.Thread(target=pool, args=(domain.RawImage(1, 1, bytes(3)), Recipe(height=48, width=64))).start()
print(*pool.pids, flush=True)
"""


def test_the_processes_end_with_a_server_that_is_killed() -> None:
    """Each of them, although all are in the middle of a codec that does not come back."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=str(ROOT))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2
        until(lambda: all(map(_decodes, pids)))
        assert not any(map(gone, pids))
        server.kill()
    try:
        until(lambda: all(map(gone, pids)))
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _decodes(pid: int) -> bool:
    """Whether a hung decoder has an image: it says so by its name."""
    return Path(f"/proc/{pid}/comm").read_text() == "hung\n"


def test_close_ends_every_process_and_tells_whoever_waits_or_comes_later(make: Make) -> None:
    pool = make()
    with held_up(pool) as (pid, answer), ThreadPoolExecutor(1) as thread:
        next_one = thread.submit(pool, PNG, RECIPE)
        pool.close()
        for waiting in (answer, next_one):
            error = waiting.exception(SECONDS)
            assert isinstance(error, UnavailableError)
            assert error.reason is Reason.DRAINING
    assert gone(pid)
    assert pool.pids == []
    pool.close()
    with pytest.raises(UnavailableError):
        pool(PNG, RECIPE)


@pytest.mark.parametrize("crashes", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_crashes_leave_nothing_open_behind(crashes: int) -> None:
    pool = Isolated(LIMITS, workers=1, memory_bytes=256 * MIB, seconds=SECONDS)
    pool.start()

    def crash() -> None:
        pool(PNG, RECIPE)  # it is ready: to be stopped while it starts is another matter
        with held_up(pool) as (pid, answer):
            os.kill(pid, signal.SIGKILL)
            assert isinstance(answer.exception(SECONDS), InvalidImageError)

    assert_nothing_kept(crash, crashes)
    assert pool.restarts == 1 + crashes
    pool.close()


def test_pools_that_are_closed_leave_nothing_open_behind() -> None:
    def start_and_close() -> None:
        pool = Isolated(LIMITS, workers=1, memory_bytes=256 * MIB, seconds=SECONDS)
        pool.start()
        pool.close()

    assert_nothing_kept(start_and_close, 3)


def test_what_a_decoder_process_says_is_told_where_it_does_not_start(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("glimpse.server.decoding.process._MODULE", "tests.server.no_such_module")
    with pytest.raises(RuntimeError, match=r"exited with 1, and said: .*No module named"):
        make()
    assert capfd.readouterr().err == ""
