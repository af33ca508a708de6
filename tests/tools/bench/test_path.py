"""The benchmark of the way around the device: whose CPU time is whose, and what the tables make of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.bench import machine, path
from tools.bench.path import INSIDE


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["python", "-P", "-m", "glimpse.server.worker_process", "--control", "3"], "worker"),
        (["python", "-P", "-m", "glimpse.server.engine_process", "--control", "3"], "engine"),
        (["python", "-m", "glimpse.server", "--port=0"], "server"),
        (["python", "-m", "glimpse.server.decoding.worker"], "other"),
        ([], "other"),
    ],
)
def test_a_process_is_known_by_its_command_line(command: list[str], kind: str) -> None:
    assert path.kind(command) == kind


def test_a_command_line_is_that_of_the_process() -> None:
    assert machine.command(os.getpid())[0] == Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    assert machine.command(2**22 + 1) == []


def test_threads_have_their_names_and_the_event_loop_is_sampled(tmp_path: Path) -> None:
    """In any Python process that finds the folder first: what runs outside of the server is gRPC's and the loop's."""
    script = (
        "import threading, time\n"
        "end = time.process_time() + 1\n"
        "thread = threading.Thread(target=lambda: print(open('/proc/thread-self/comm').read()), name='batcher-1')\n"
        "thread.start(); thread.join()\n"
        "while time.process_time() < end: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(INSIDE), "BENCH_SAMPLES": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "batcher-1"
    [file] = tmp_path.iterdir()
    assert 0.5 < json.loads(file.read_text())["gRPC and event loop"] < 1.5


def test_what_a_thread_does_is_the_file_and_function_that_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("inside", INSIDE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    inside = importlib.util.module_from_spec(spec)
    monkeypatch.delenv("BENCH_SAMPLES", raising=False)
    monkeypatch.setattr("threading.Thread.run", __import__("threading").Thread.run)  # put back at the end
    spec.loader.exec_module(inside)

    def during(file: str, function: str = "work") -> str:
        source = f"def {function}():\n    import sys\n    return sys._getframe()\n"
        scope: dict[str, Any] = {}
        exec(compile(source, f"/x/src/glimpse/server/{file}", "exec"), scope)  # noqa: S102 - a frame of that file
        return str(inside.part(scope[function]()))

    assert during("batching/batcher.py") == during("fair_queue.py") == "hand over"
    assert during("decoding/pool.py") == "decode"
    assert during("access/control.py") == "receive"
    assert during("grpc/servicer.py", "to_response") == during("answers/postprocessing.py") == "answer"
    assert during("app.py", "_run_once") == "gRPC and event loop"


def test_cpu_time_is_that_of_the_threads_since_then() -> None:
    names = {(1, 1): ("server", "event loop"), (1, 2): ("server", "decode"), (1, 3): ("server", "compose")}
    before = path.Usage({(1, 1): 1.0, (1, 2): 2.0}, names)
    after = path.Usage({(1, 1): 1.5, (1, 2): 2.0, (1, 3): 0.25}, names)
    assert after.since(before) == {(1, "server", "event loop"): 0.5, (1, "server", "decode"): 0.0} | {
        (1, "server", "compose"): 0.25
    }


def test_an_event_loops_time_is_shared_out_by_its_samples() -> None:
    before, after = {"receive": 1.0}, {"receive": 4.0, "answer": 1.0}
    assert path._shares("event loop", before, after) == {"receive": 0.75, "answer": 0.25}
    assert path._shares("event loop", before, None) == {"event loop": 1.0}
    assert path._shares("decode", before, after) == {"decode": 1.0}


def measured(cpu: float, engine: float = 0.0) -> dict[str, Any]:
    return {
        "rate": 100.0,
        "cpu": cpu,
        "generator_cpu": 0.0005,
        "service_cores": 1.5,
        "machine_cores": 1.9,
        "processes": {"engine": engine} if engine else {"server": cpu},
        "parts": {"receive": cpu},
    }


def test_ratios_are_of_the_same_round_and_the_target_is_judged() -> None:
    """A round in which the machine was half as fast for all does not change them."""
    sides = [
        {"name": "1", "workers": 1, "loads": {"raw": [measured(0.001), measured(0.002), measured(0.001)]}},
        {
            "name": "2",
            "workers": 2,
            "loads": {"raw": [measured(0.0011, 0.0002), measured(0.0022, 0.0004), measured(0.0011, 0.0002)]},
        },
    ]
    text = path.table({"machine": {"CPU": "this"}, "sides": sides})
    assert "| 2 | 100 | 1100 | 200 | 0 | 1.100 | 1.100 to 1.100 | 500 | 1.50 | 1.90 |" in text
    assert "2 workers: 1.100 times one process's CPU time (at most 1.15: met)." in text
    assert "14,545 images/s with callers elsewhere and 10,000 with them on the same cores" in text
    assert "one engine, if it uses one core: 5,000" in text


@pytest.mark.ci
def test_one_process_is_measured_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a service, a caller and the simulated device; nothing is said of how fast they are."""
    file = tmp_path / "path.json"
    chosen = ["--workers", "1", "--rounds", "1", "--seconds", "0.5", "--loads", "raw", "--generators", "1", "--parts"]
    assert path.main([*chosen, "--json", str(file)]) == 0
    assert "### raw" in capsys.readouterr().out
    [side] = json.loads(file.read_text())["sides"]
    [found] = side["loads"]["raw"]
    assert found["errors"] == {}
    assert found["processes"].keys() == {"server"}
    assert {"compose", "receive", "answer"} <= found["parts"].keys()
    assert sum(found["parts"].values()) == pytest.approx(found["cpu"])
