"""One peer's life under the clock: start it, wait until it answers, load it, end it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.peers import environment
from tools.bench.peers.environment import CACHE, ROOT, EnvironmentFailedError
from tools.bench.peers.peers import Peer
from tools.bench.peers.processes import Program

HERE = Path(__file__).parent
_LIMIT = 420.0  # seconds for a start, a check and a warm-up
_ATTEMPTS = 2  # PyTriton's instances race at the start, and sometimes one loses
_OFF = {  # telemetry, and looks at the network for a newer release
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OPENVINO_TELEMETRY": "0",
    "HF_HUB_OFFLINE": "1",
}


class NotStartedError(RuntimeError):
    """The peer gave no answer; the message ends with its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A peer with one runtime, and how it is run and loaded."""

    peer: Peer
    runtime: str
    precision: str
    callers: tuple[int, ...]  # one measurement for each
    warm: float  # seconds
    seconds: float
    max_batch: int
    workers: int
    threads: int
    wait_ms: float

    def row(self) -> dict[str, Any]:
        """What tells it from other runs."""
        return {
            "peer": self.peer.name,
            "runtime": self.runtime,
            "precision": self.precision,
            "max_batch": self.max_batch,
            "workers": self.workers,
            "threads": self.threads,
            "wait_ms": self.wait_ms,
        }


def photos(folder: Path | None) -> Path:
    """A folder of JPEG files: the given one, or the benchmark's own, which is made where it is not there.

    Raises:
        SystemExit: there are none in the given one.
    """
    if folder is not None:
        if not any(folder.glob("*.jpg")):
            raise SystemExit(f"{folder} holds no *.jpg. Name a folder of photos, or leave --photos out.")
        return folder.resolve()
    from tools.bench.photos import jpegs

    folder = CACHE / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(jpegs()):
        (folder / f"{number:03}.jpg").write_bytes(data)
    return folder


def network(name: str, precision: str, photos: Path, python: Path) -> Path:
    """The network's files, without suffix; `python` writes them where they are not there for these photos.

    Raises:
        SystemExit: it could not write them.
    """
    folder = CACHE / "exported"
    steps = [("export", folder / f"{name}.json")]
    if precision == "int8":
        steps.append(("quantise", _answers(folder / name, precision)))
    known = {file.name for file in photos.glob("*.jpg")}
    for module, answers in steps:
        if answers.exists() and set(json.loads(answers.read_text())) == known:
            continue
        command = [str(python), "-m", f"tools.bench.peers.{module}", name, str(photos), str(folder)]
        if subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **_OFF}).returncode:
            raise SystemExit(f"{name} could not be written; the reason is above.")
    return folder / name


def _answers(files: Path, precision: str) -> Path:
    """What the network's answers must be."""
    return files.with_suffix(".int8.json" if precision == "int8" else ".json")


def described(run: Run, files: Path) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        **run.row(),
        "network": files.name,
        "protocol": run.peer.protocol,
        "load_average": os.getloadavg()[0],  # above nothing, somebody else was at work
    }


def callers(run: Run, python: Path, files: Path, photos: Path, *, port: int, number: int) -> list[str]:
    """The command that loads a peer."""
    told = (run.peer.protocol, port, run.peer.path, photos, _answers(files, run.precision))
    return [str(python), str(HERE / "caller.py"), *map(str, (*told, number, run.warm, run.seconds))]


def rows(run: Run, *, files: Path, photos: Path, caller: Path) -> Iterator[dict[str, Any]]:
    """A row for each number of callers, or one that says why there is none."""
    row = described(run, files)
    try:
        python = environment.prepare(run.peer.name, run.peer.packages)
    except EnvironmentFailedError as error:
        yield {**row, "not_started": str(error)}
        return
    row["versions"] = environment.versions(python, run.peer.packages)
    waiting = list(run.callers)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with tempfile.TemporaryDirectory(prefix="peer") as scratch:
                port = ports()
                with started(run, python, files, port, Path(scratch)) as server:
                    while waiting:
                        seen = _measured(callers(run, caller, files, photos, port=port, number=waiting[0]), server)
                        yield {**row, "attempt": attempt, "callers": waiting.pop(0), **seen}
        except NotStartedError as error:
            if attempt == _ATTEMPTS:
                yield {**row, "attempt": attempt, "not_started": str(error)}
        else:
            return


def started(run: Run, python: Path, files: Path, port: int, scratch: Path) -> Program:
    """The peer's process; it may not answer yet."""
    options = {
        "network": str(files),
        "runtime": run.runtime,
        "precision": run.precision,
        "port": port,
        "max_batch": run.max_batch,
        "wait_ms": run.wait_ms,
        "workers": run.workers,
        "threads": run.threads,
    }
    return Program(
        [str(python), "-m", f"servers.{run.peer.name}_server"],
        folder=scratch,
        environment={
            **_OFF,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(HERE),
            "PYTHONUNBUFFERED": "1",
            # What it writes about itself goes when it goes.
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "GLIMPSE_BENCH_OPTIONS": json.dumps(options),
        },
        log=scratch / "log",
    )


def _measured(command: list[str], server: Program) -> dict[str, Any]:
    """What the callers saw, and what it cost the server."""
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        spoken = until_measuring(load, server)
        before, peak = server.cpu_seconds(), 0
        while load.poll() is None:
            peak = max(peak, server.resident_bytes())
            time.sleep(0.5)
        used = _used(before, server)
    finally:
        load.kill()
        output, rest = load.communicate()
    if server.process.poll() is not None:
        raise NotStartedError(f"It ended under load with code {server.process.returncode}: {server.last_words()}")
    if load.returncode:
        raise NotStartedError(f"It was lost: {(spoken + rest).strip()[-500:]}")
    seen: dict[str, Any] = json.loads(output)
    return {**seen, **_told(seen["images"], used, server), "rss_peak_mib": peak >> 20}


def cost(images: int, before: dict[int, float], server: Program) -> dict[str, Any]:
    """What so many images have cost the server since `before`, its CPU seconds by process."""
    return _told(images, _used(before, server), server)


def _used(before: dict[int, float], server: Program) -> float:
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in server.cpu_seconds().items())


def _told(images: int, used: float, server: Program) -> dict[str, Any]:
    return {
        "server_cpu_seconds": round(used, 2),
        "images_per_server_cpu_second": round(images / used, 2) if used else 0.0,
        "pss_mib": server.proportional_bytes() >> 20,
    }


def until_measuring(load: subprocess.Popen[str], server: Program) -> str:
    """Wait until the clock starts; whichever of the two ends before, or neither begins, is an error."""
    spoken: list[str] = []
    begun = threading.Event()
    assert load.stderr is not None
    lines = load.stderr

    def listen() -> None:
        for line in lines:
            if line.strip() == "measuring":
                begun.set()
                return
            spoken.append(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    end = time.monotonic() + _LIMIT
    while not begun.wait(0.2):
        if server.process.poll() is not None:
            raise NotStartedError(f"It ended with code {server.process.returncode}: {server.last_words()}")
        if load.poll() is not None:
            listener.join(5)
            raise NotStartedError(f"No answer: {''.join(spoken).strip()[-500:]} The server: {server.last_words()}")
        if time.monotonic() > end:
            raise NotStartedError(f"Not ready after {_LIMIT:.0f} s: {server.last_words()}")
    return "".join(spoken)


def ports() -> int:
    """The first of three ports in a row that are free: a peer's protocol, and what else it listens on."""
    for port in range(20000, 30000, 10):
        try:
            for offset in range(3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port
    raise SystemExit("No three free ports in a row between 20000 and 30000.")
