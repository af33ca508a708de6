"""Bombs: files that ask for far more than they are. What is refused is refused before memory is taken for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import grpc
import pytest

from glimpse.models.decoding.cost import predict
from glimpse.models.prestem import host
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import ROOT, RunningServer
from tests.server.conftest import TIMEOUT, rich_status
from tests.server.hostile import tell
from tests.server.hostile.batches import ENVIRONMENT
from tests.server.hostile.bombs import COSTLY, METADATA_BOMBS, REFUSED_BOMBS, zeros
from tests.server.hostile.memory import MIB, forget_peak, needs_proc, peak, resident
from tests.server.hostile.mutants import LIMITS, RECIPES

pytestmark = needs_proc
TARGET = partial(host.resized, recipe=RECIPES[0])
CONNECTIONS = 8  # that the thousand come over


class Found(TypedDict):
    """What became of a file."""

    result: str
    grown: int  # bytes of memory, at the peak
    seconds: float


def decoded(files: Mapping[str, Callable[[], bytes]], folder: Path) -> dict[str, Found]:
    """Decode them one after the other in a fresh process."""
    paths = []
    for number, make in enumerate(files.values()):
        paths.append(folder / str(number))
        paths[-1].write_bytes(make())
    run = subprocess.run(
        [sys.executable, "-m", "tests.server.hostile.once", *paths],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Found] = dict(zip(files, map(json.loads, run.stdout.splitlines()), strict=True))
    for path, (name, each) in zip(paths, found.items(), strict=True):
        size, took = path.stat().st_size, f"{each['seconds']:.3f} s, {each['grown'] / MIB:.1f} MiB"
        tell(f"{name}: {size} bytes, {each['result']}, {took}")
    return found


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    found = decoded({name: make for name, (make, _) in REFUSED_BOMBS.items()}, tmp_path)
    assert {name: each["result"] for name, each in found.items()} == {
        name: reason for name, (_, reason) in REFUSED_BOMBS.items()
    }
    assert {name: each["grown"] for name, each in found.items() if each["grown"] > 8 * MIB} == {}


def test_metadata_that_nobody_needs_take_no_memory(tmp_path: Path) -> None:
    found = decoded(METADATA_BOMBS, tmp_path)
    assert {name: each["result"] for name, each in found.items()} == dict.fromkeys(METADATA_BOMBS, "decoded")
    # A copy of the file without them, at most.
    assert {name: each["grown"] for name, each in found.items() if each["grown"] > 16 * MIB} == {}


@pytest.mark.slow
def test_the_dearest_file_within_the_limits_takes_less_than_400_mib(tmp_path: Path) -> None:
    found = decoded(COSTLY, tmp_path)
    assert {name: each["result"] for name, each in found.items()} == dict.fromkeys(COSTLY, "decoded")
    assert max(each["grown"] for each in found.values()) < 400 * MIB
    # What was predicted is enough for each of them.
    for name, each in found.items():
        assert each["grown"] < predict(COSTLY[name](), LIMITS[0], TARGET).memory + 16 * MIB, name


@pytest.mark.slow
def test_a_thousand_bombs_at_once_harm_nobody(start_server: Callable[..., RunningServer], cat_photo: Path) -> None:
    running = start_server()
    running.wait_for("serving")
    pid = running.process.pid
    photo = pb.ClassifyRequest(images=[pb.Image(encoded=cat_photo.read_bytes())])
    bomb = pb.ClassifyRequest(images=[pb.Image(encoded=zeros(13_377, 13_378))])
    with ExitStack() as stack:
        neighbour, *attackers = (stack.enter_context(connected(running)) for _ in range(1 + CONNECTIONS))
        for stub in (neighbour, *attackers):  # what is made at the first call is made now
            stub.Classify(photo, timeout=TIMEOUT)
            stub.Classify(bomb, timeout=TIMEOUT)
        before = resident(pid)
        forget_peak(pid)
        labels: Counter[str] = Counter()
        over = threading.Event()

        def call() -> None:
            while not over.is_set():
                labels[neighbour.Classify(photo, timeout=TIMEOUT).results[0].predictions[0].label] += 1

        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(call)
            try:
                for wave in range(3):
                    futures = [attackers[i % CONNECTIONS].Classify.future(bomb, timeout=TIMEOUT) for i in range(1000)]
                    ends = Counter(end(future) for future in futures)
                    assert set(ends) <= {"IMAGE_PIXELS_EXCEEDED", "QUEUE_FULL"}, ends
                    grown = peak(pid) - before
                    most, left = (f"{size / MIB:+.0f} MiB" for size in (grown, resident(pid) - before))
                    tell(f"wave {wave}: {dict(ends)}, memory {before / MIB:.0f} MiB, {most} at most, then {left}")
                    # Decoded, they would be 500 GB. There are messages of 0.5 MB, read and kept by C libraries.
                    assert grown < 600 * MIB
            finally:
                over.set()
            calling.result(TIMEOUT)
        # What they leave behind goes back to the system once there is nothing to do.
        deadline = time.monotonic() + TIMEOUT
        while resident(pid) - before > 100 * MIB and time.monotonic() < deadline:
            time.sleep(0.5)
        tell(f"afterwards: {(resident(pid) - before) / MIB:+.0f} MiB")
        assert resident(pid) - before <= 100 * MIB
    assert set(labels) == {"cat"}


@contextmanager
def connected(running: RunningServer) -> Iterator[ImageClassifierStub]:
    """A connection of its own."""
    with grpc.insecure_channel(running.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield ImageClassifierStub(channel)


def end(future: Any) -> str:
    """How a bomb ended: its own error, or that of its request."""
    try:
        return str(future.result().results[0].error.reason)
    except grpc.RpcError as error:
        return str(rich_status(error)[1].reason)
