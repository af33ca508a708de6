"""What the figures of the peers rest on: the same pixels, honest counting, and no process left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glimpse.models.prestem.host import fit
from glimpse.models.published import recipes
from tools.bench import photos
from tools.bench.peers import __main__ as program
from tools.bench.peers import environment, measure, report, turns
from tools.bench.peers.caller import Load, check, percentile
from tools.bench.peers.peers import PEERS
from tools.bench.peers.processes import Program
from tools.bench.peers.servers.work import decode

# A child that leaves its parent's session, as daemons do, takes no SIGTERM, and outlives the parent.
_DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    open(sys.argv[1], "w").close()
    time.sleep(600)
time.sleep(600)
"""


def test_the_peers_decode_to_the_pixels_that_the_service_feeds_the_same_network(tmp_path: Path) -> None:
    for data in photos.jpegs(5):
        file = tmp_path / "photo.jpg"
        file.write_bytes(data)
        with Image.open(file) as photo:
            expected = fit(photo.convert("RGB"), recipes.torch(224, 256))
        # The peers resize all of the photo and then take its centre, and the service only its centre.
        differences = np.abs(decode(data).astype(int) - expected)
        assert differences.max() <= 1
        assert np.mean(differences > 0) < 0.005


def test_a_program_ends_with_all_that_it_started_wherever_that_has_gone(tmp_path: Path) -> None:
    done = tmp_path / "done"
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", _DAEMON, str(done)]
    with Program(command, folder=tmp_path, environment=environment, log=tmp_path / "log", grace=0.2) as program:
        while not done.exists():
            time.sleep(0.05)
        pids = set(program.pids())
        assert len(pids) == 2
        used = program.cpu_seconds()
        assert used.keys() == pids
        assert max(used.values()) >= 0.15, "the daemon's time is counted"
        assert 0 < program.proportional_bytes() < program.resident_bytes()
    assert not list(program.pids())


def test_calls_that_fail_are_errors_and_no_images() -> None:
    async def call(request: bytes) -> bytes:
        await asyncio.sleep(0)
        if request == b"bad":
            raise RuntimeError("HTTP 503")
        return request

    load = Load(call, [b"good", b"bad"])
    asyncio.run(load.run(callers=1, seconds=0.25))
    assert load.errors
    assert set(load.errors) == {"RuntimeError: HTTP 503"}
    assert abs(len(load.latencies) - len(load.errors)) <= 1


def test_an_answer_of_another_photo_is_a_wrong_one() -> None:
    answers = {b"a": b'[{"classes": [3], "probabilities": [0.9]}]', b"b": b'{"classes": [3], "probabilities": [0.5]}'}

    async def call(request: bytes) -> bytes:
        return answers[request]

    def wrong(expected: dict[str, tuple[int, float]]) -> int:
        return asyncio.run(check(call, {"1": b"a", "2": b"b"}, bytes, expected))

    assert wrong({"1": (3, 0.9), "2": (3, 0.5)}) == 0
    assert wrong({"1": (3, 0.9), "2": (3, 0.9)}) == 1, "the class is right by chance, the probability is not"
    assert wrong({"1": (4, 0.9), "2": (5, 0.5)}) == 2


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([7.0], 0.99) == 7


def _row(peer: str, turn: int, rate: float, p99: float, **beside: Any) -> dict[str, Any]:
    (found,) = [each for each in PEERS if each.name == peer]
    return {
        "peer": peer,
        "runtime": "openvino",
        "precision": "f32",
        "network": "mobilenet",
        "workers": found.workers,
        "threads": found.threads,
        "max_batch": found.max_batch,
        "wait_ms": found.wait_ms,
        "callers": 32,
        "round": turn,
        "images_per_second": rate,
        "images_per_server_cpu_second": rate / 2,
        "p50_ms": p99 / 2,
        "p99_ms": p99,
        "pss_mib": 100,
        "errors": 0,
        "wrong_answers": 0,
        **beside,
    }


def test_a_peer_is_compared_within_a_round() -> None:
    # The machine is half as fast in the second round: each figure changes, the ratios do not.
    rows = [
        *(_row("glimpse", 1, 80, 400), _row("litserve", 1, 50, 800)),
        *(_row("glimpse", 2, 40, 800), _row("litserve", 2, 25, 1600)),
        _row("ray", 1, 0, 0, not_started="It ended."),
    ]
    table = report.table(rows)
    assert (
        "| litserve | openvino, f32 | 2 x 1, 8, 5 ms | 37.5 | 600 | 1200 | 18.8 | 100 | 1.60 | 1.60 | 0.50 |" in table
    )
    assert "ray, openvino, was not started: It ended." in table
    assert "4 measurements; 0 wrong answers and errors." in table


def test_a_run_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "rows.jsonl"
    known.write_text(json.dumps(_row("glimpse", 1, 80, 400)) + "\n")
    asked = []

    def rows(run: measure.Run, **_: Any) -> Iterator[dict[str, Any]]:
        asked.append(run.peer.name)
        yield _row(run.peer.name, 0, 20, 800, generator_cpu_seconds=0)

    monkeypatch.setattr(measure, "photos", lambda _: tmp_path)
    monkeypatch.setattr(measure, "network", lambda name, *_: tmp_path / name)
    monkeypatch.setattr(measure, "rows", rows)
    monkeypatch.setattr(environment, "prepare", lambda *_: tmp_path)
    chosen = ["--peers", "glimpse,litserve", "--runtime", "openvino", "--rounds", "2", "--json", str(known)]
    monkeypatch.setattr(sys, "argv", ["peers", *chosen])
    program.main()
    assert asked == ["litserve", "glimpse", "litserve"]
    assert [json.loads(line)["round"] for line in known.read_text().splitlines()] == [1, 1, 2, 2]
    assert "4 measurements" in capsys.readouterr().out


# A server that computes a little for each line of a file that grows, and the callers that make it grow.
_SERVER = """
import sys, time
lines = 0
while True:
    new = open(sys.argv[1]).read().count("x")
    if new > lines:
        lines = new
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        open(sys.argv[1], "a").write("y")
    time.sleep(0.01)
"""
_CALLERS = """
import json, sys, time
print("measuring", file=sys.stderr, flush=True)
for _ in sys.stdin:
    with open(sys.argv[1], "a") as file:
        file.write("x")
    while open(sys.argv[1]).read()[-1] != "y":
        time.sleep(0.01)
    print(json.dumps({"images": 10}), flush=True)
"""


def test_peers_that_run_together_are_loaded_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(peer: str) -> measure.Run:
        (found,) = [each for each in PEERS if each.name == peer]
        return measure.Run(
            peer=found,
            runtime="openvino",
            precision="f32",
            callers=(32,),
            warm=0,
            seconds=1,
            max_batch=1,
            workers=1,
            threads=1,
            wait_ms=0,
        )

    def started(run: measure.Run, *_: Any) -> Program:
        asked = tmp_path / run.peer.name
        asked.write_text("")
        command = [sys.executable, "-c", _SERVER, str(asked)]
        log = tmp_path / f"{run.peer.name}.log"
        return Program(command, folder=tmp_path, environment={"PATH": os.environ["PATH"]}, log=log, grace=0.2)

    def callers(run: measure.Run, *_: Any, **__: Any) -> list[str]:
        return [sys.executable, "-c", _CALLERS, str(tmp_path / run.peer.name)]

    def prepare(name: str, _: Any) -> Path:
        if name == "ray":
            raise environment.EnvironmentFailedError("ray cannot be installed")
        return Path(sys.executable)

    monkeypatch.setattr(measure, "started", started)
    monkeypatch.setattr(measure, "callers", callers)
    monkeypatch.setattr(environment, "prepare", prepare)
    monkeypatch.setattr(environment, "versions", lambda *_: {})
    given = {"files": tmp_path / "network", "photos": tmp_path, "caller": tmp_path}
    found = list(turns.rows([run(name) for name in ("glimpse", "ray", "kserve")], rounds=2, callers=32, **given))
    assert [(row["peer"], row["round"]) for row in found] == [
        *(("ray", 0), ("glimpse", 1), ("kserve", 1)),
        *(("kserve", 2), ("glimpse", 2)),
    ]
    assert found[0]["not_started"] == "ray cannot be installed"
    # 10 images for 0.3 seconds; the kernel counts in hundredths, and the server may still have been starting.
    assert all(10 < row["images_per_server_cpu_second"] < 50 for row in found[1:])
