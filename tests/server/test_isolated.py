"""Decoding in processes of its own: real processes, real signals, and one lost process costs one image."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.prestem.recipe import Recipe
from server import domain
from server.decoding import process, wire
from server.decoding.decode import FORMATS
from server.decoding.isolated import Isolated
from server.decoding.limits import ImageLimits
from server.decoding.prepare import Prepared, prepare
from server.errors import InternalError, InvalidImageError, Reason, UnavailableError
from tests.conftest import ROOT

RECIPE = Recipe(height=48, width=64, crop_share=0.875, smaller="resize")
LIMITS = ImageLimits(max_bytes=2_000_000, max_pixels=16_000_000)
MIB = 1 << 20
SECONDS = 60.0  # until something is called hung, never the measure of a result
PHOTO = Image.effect_mandelbrot((300, 200), (-2, -1.2, 1, 1.2), 40).convert("RGB")

Make = Callable[..., Isolated]


def encoded(form: str, image: Image.Image = PHOTO) -> domain.EncodedImage:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return domain.EncodedImage(buffer.getvalue())


def one_colour(side: int) -> domain.EncodedImage:
    """A small file with many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, rows = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), zlib.compress(bytes(side * (3 * side + 1)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return domain.EncodedImage(data)


PNG = encoded("PNG")


@pytest.fixture
def make() -> Iterator[Make]:
    """Start pools of a test's own; they are closed with it."""
    with contextlib.ExitStack() as stack:

        def start(workers: int = 1, *, memory_bytes: int = 256 * MIB, seconds: float = SECONDS) -> Isolated:
            pool = Isolated(LIMITS, workers=workers, memory_bytes=memory_bytes, seconds=seconds)
            stack.callback(pool.close)
            pool.start()
            return pool

        yield start


@pytest.fixture(scope="module")
def pool() -> Iterator[Isolated]:
    """Two processes that no test ends."""
    shared = Isolated(LIMITS, workers=2, memory_bytes=256 * MIB, seconds=SECONDS)
    shared.start()
    yield shared
    shared.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, whoever is to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def unread(pool: Isolated, pid: int) -> bool:
    """Whether that process has been sent something that it has not read yet."""
    (place,) = (place for place in pool._places if place.process is not None and place.process.pid == pid)
    assert place.process is not None
    waiting = fcntl.ioctl(place.process._socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(waiting, sys.byteorder) > 0


@contextlib.contextmanager
def held_up(pool: Isolated, image: domain.Image = PNG) -> Iterator[tuple[int, Future[Prepared]]]:
    """An image that is with the only process of a pool, which has been stopped: its number, and the image's answer."""
    (pid,) = pool.pids
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(pool, image, RECIPE)
        until(partial(unread, pool, pid))
        yield pid, answer


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


def test_a_process_that_dies_with_nothing_to_do_costs_nothing(make: Make) -> None:
    pool = make()
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    until(partial(gone, pid))
    assert pool(PNG, RECIPE).pixels.shape == (48, 64, 3)
    assert pool.restarts == 1


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


def test_a_process_has_nothing_of_the_server_but_its_connection_and_no_framework(make: Make) -> None:
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
from models.prestem.recipe import Recipe
from server import domain
from server.decoding.isolated import Isolated
from server.decoding.limits import ImageLimits

image, recipe = domain.EncodedImage(sys.stdin.buffer.read()), Recipe(height=48, width=64)
pool = Isolated(ImageLimits(2_000_000, 16_000_000), workers=2, memory_bytes=256 << 20, seconds=60)
pool.start()

def decode():
    while True:
        pool(image, recipe)

threading.Thread(target=decode).start()
print(*pool.pids, flush=True)
"""


def test_the_processes_end_with_a_server_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=str(ROOT))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(one_colour(3900).data)
        server.stdin.close()
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(map(gone, pids))
        server.kill()
    until(lambda: all(map(gone, pids)))


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
    before = open_files()
    pool = Isolated(LIMITS, workers=1, memory_bytes=256 * MIB, seconds=SECONDS)
    pool.start()
    running = len(open_files())
    for _ in range(crashes):
        pool(PNG, RECIPE)  # it is ready: to be stopped while it starts is another matter
        with held_up(pool) as (pid, answer):
            os.kill(pid, signal.SIGKILL)
            assert isinstance(answer.exception(SECONDS), InvalidImageError)
    assert pool.restarts == crashes
    assert len(open_files()) == running
    pool.close()
    assert open_files() == before


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Have decoder processes run a program of the test's own, which tells its starts in the file that is returned."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "_MODULE", "rogue")
    starts = tmp_path / "starts"

    def write(program: str) -> Path:
        note = f"with open({str(starts)!r}, 'a') as file: file.write('x')"
        (tmp_path / "rogue.py").write_text(f"import os, socket, sys\n{note}\n{program}\n")
        return starts

    return write


SAYS = """
server = socket.socket(fileno=0)
server.sendall(b'ready')
server.recv(1)
server.sendall({reply})
server.recv(1 << 30, socket.MSG_WAITALL)
"""
SIZE = wire.reply_size(RECIPE)


@pytest.mark.parametrize(
    "reply",
    [
        f"b'\\x01' * {SIZE}",
        f"b'\\xff' * {SIZE}",
        f"bytes({SIZE})",
        f"(b'\\x01' + bytes(8) + b'\\x02\\x00\\x00\\x00' + b'[]').ljust({SIZE})",
        f"(b'\\x00' + b'\\xff' * 8 + bytes([0, 36, 0, 0])).ljust({SIZE})",
    ],
)
def test_a_process_that_makes_no_sense_is_replaced(rogue: Callable[[str], Path], make: Make, reply: str) -> None:
    rogue(SAYS.format(reply=reply))
    pool = make()
    with pytest.raises(InvalidImageError, match="made no sense") as refused:
        pool(PNG, RECIPE)
    assert refused.value.reason is Reason.DECODER_FAILED
    assert pool.restarts == 1


def test_a_process_that_says_half_is_given_up(rogue: Callable[[str], Path], make: Make) -> None:
    rogue(SAYS.format(reply=f"bytes({SIZE - 1})"))
    with pytest.raises(InvalidImageError, match=r"more than 0\.5 s"):
        make(seconds=0.5)(PNG, RECIPE)


@pytest.mark.parametrize("program", ["sys.exit(7)", "os.kill(os.getpid(), 9)", "os.write(0, b'hello')"])
def test_processes_that_cannot_start_are_told_of_at_once(rogue: Callable[[str], Path], program: str) -> None:
    rogue(program)
    before = open_files()
    pool = Isolated(LIMITS, workers=2, memory_bytes=256 * MIB, seconds=SECONDS)
    with pytest.raises(RuntimeError, match="Cannot start a decoder process"):
        pool.start()
    assert open_files() == before


def test_a_process_that_no_longer_starts_is_not_started_over_and_over(rogue: Callable[[str], Path], make: Make) -> None:
    starts = rogue(SAYS.format(reply="b''") + "os._exit(0)")
    pool = make()
    rogue("sys.exit(7)")
    with held_up(pool) as (pid, answer):
        os.kill(pid, signal.SIGKILL)
        assert isinstance(answer.exception(SECONDS), InvalidImageError)
    for _ in range(100):
        with pytest.raises(InternalError):
            pool(PNG, RECIPE)
    assert len(starts.read_text()) < 20  # the first one, its replacement, and one a second


def test_a_message_too_long_for_a_reply_is_cut() -> None:
    error = InvalidImageError(Reason.CORRUPT_IMAGE, "ü" * 100_000, field="encoded")
    with pytest.raises(InvalidImageError) as refused:
        wire.read_reply(memoryview(wire.refusal(error, RECIPE)), RECIPE, 1.0)
    assert refused.value.reason is Reason.CORRUPT_IMAGE
    assert refused.value.message
    assert set(refused.value.message) == {"ü"}


@settings(max_examples=500, deadline=None)
@given(head=st.binary(min_size=13, max_size=200))
def test_no_reply_is_anything_but_pixels_a_refusal_or_nonsense(head: bytes) -> None:
    with contextlib.suppress(InvalidImageError, ValueError):
        assert wire.read_reply(memoryview(head.ljust(SIZE, b"\0")), RECIPE, 1.0).pixels.shape == (48, 64, 3)
