"""A server that is told to stop before it serves: at any moment it ends at once, well, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from glimpse.models import bundle as bundles
from glimpse.server.runtime import converted_key
from tests.conftest import ROOT, RunningServer
from tools.bench import machine

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it looks at processes through /proc")

Start = Callable[..., RunningServer]
SECONDS = 20.0  # until a process is said not to obey; it takes some tenths of a second
BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)


def signals(pid: int, kind: str) -> int:
    """A process's mask of signals, ``SigCgt`` or ``SigIgn``; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{kind}:\s*([0-9a-f]+)", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


def wait_until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.005)


def listens_to(pid: int, number: signal.Signals = signal.SIGTERM, kind: str = "SigCgt") -> Callable[[], bool]:
    """Whether it has come so far; Python itself takes its time to start, and until then the system's default holds."""
    return lambda: bool(signals(pid, kind) >> (number - 1) & 1)


def children(pid: int, module: str) -> list[int]:
    """The processes of a server that run a module."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if module.encode() in words and parent == str(pid):
                found.append(int(folder.name))
    return found


def left(folder: Path, *, converted_by_then: bool) -> list[str]:
    """What is in a folder, but for a network that was complete, and for how its precision compares."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    if not converted_by_then:
        return found
    complete = r"cache(/networks(/[0-9a-f]{32}(/network\.\w+)?)?|/agreement(/[0-9a-f]{32}\.json)?)?"
    return [name for name in found if not re.fullmatch(complete, name)]


def stopped_after(seconds: float, folder: Path, *arguments: str) -> dict[str, object]:
    """Start a server with an empty cache, tell it to stop then, and see how it ends."""
    folder.mkdir()
    environment = {"GLIMPSE_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    running = RunningServer(*arguments, environment=environment)
    try:
        wait_until(listens_to(running.process.pid))
        time.sleep(seconds)
        begun = machine.tree(running.process.pid)[1:]
        running.terminate()
        code = running.exit_code(seconds=SECONDS)
        events = [line["event"] for line in running.log]
        lasting = left(folder, converted_by_then="network converted" in events)
        return {
            "code": code,
            "left": lasting,
            "goes on": [pid for pid in begun if is_there(pid)],
            "said": running.stray,
        }
    finally:
        running.close()


WELL = {"code": 0, "left": [], "goes on": [], "said": []}


@pytest.mark.parametrize(
    ("workers", "moments"),
    [
        pytest.param(1, (0.0, 1.0), id="two"),
        pytest.param(1, (0.1, 0.3, 0.6, 1.5, 2.0, 2.7, 3.5, 4.5), id="eight more", marks=pytest.mark.ci),
        pytest.param(2, (0.0, 0.3, 0.8, 1.4, 2.0, 2.8), id="of two workers", marks=pytest.mark.ci),
    ],
)
def test_at_some_moments_of_its_start_a_server_obeys_and_leaves_nothing(
    tmp_path: Path, workers: int, moments: tuple[float, ...]
) -> None:
    with ThreadPoolExecutor(2) as servers:
        ends = servers.map(
            lambda moment: stopped_after(moment, tmp_path / f"{moment:g}", f"--workers={workers}"), moments
        )
        found = dict(zip(moments, ends, strict=True))
    assert found == dict.fromkeys(moments, WELL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_at_any_moment_of_its_start_a_server_obeys_and_leaves_nothing(tmp_path: Path) -> None:
    moments = [number / 10 for number in range(61)]
    found = {moment: stopped_after(moment, tmp_path / f"{moment:g}") for moment in moments}
    assert found == dict.fromkeys(moments, WELL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arguments", [["--runtime=tensorflow"], ["--decode-in=processes"]], ids=lambda words: words[0])
def test_whatever_it_loads(tmp_path: Path, arguments: list[str]) -> None:
    moments = [number / 2 for number in range(12)]
    found = {moment: stopped_after(moment, tmp_path / f"{moment:g}", *arguments) for moment in moments}
    # TensorFlow greets the world where it is imported into the server itself.
    assert {moment: {**end, "said": []} for moment, end in found.items()} == dict.fromkeys(moments, WELL)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.ci)])
def test_a_conversion_that_hangs_keeps_no_server_from_ending(
    start_server: Start, tmp_path: Path, number: signal.Signals
) -> None:
    environment = {"GLIMPSE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}  # where tests are found
    running = start_server(module="tests.server.hung", environment=environment)
    wait_until(lambda: children(running.process.pid, "tests.server.hung"))
    (conversion,) = children(running.process.pid, "tests.server.hung")
    running.terminate(number)
    assert running.exit_code(seconds=SECONDS) == 0
    assert not Path(f"/proc/{conversion}").exists()
    assert not (tmp_path / "cache").exists()
    assert [line["event"] for line in running.log][-3:] == ["signal", "draining", "stopped"]


def test_a_signal_to_every_process_at_once_is_the_servers_to_answer(start_server: Start, tmp_path: Path) -> None:
    """As systemd sends it."""
    running = start_server("--runtime=openvino", environment={"GLIMPSE_CACHE": str(tmp_path / "cache")})
    wait_until(lambda: children(running.process.pid, "glimpse.server.runtime.conversion_worker"))
    (conversion,) = children(running.process.pid, "glimpse.server.runtime.conversion_worker")
    wait_until(listens_to(conversion, kind="SigIgn"))
    os.kill(conversion, signal.SIGTERM)
    time.sleep(0.2)
    assert children(running.process.pid, "glimpse.server.runtime.conversion_worker") == [conversion]
    running.terminate()
    assert running.exit_code(seconds=SECONDS) == 0
    assert not (tmp_path / "cache").exists()


def test_a_server_that_waits_for_another_ones_conversion_leaves_it_alone(start_server: Start, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "networks"
    place.mkdir(parents=True)
    key = converted_key.identity(BUNDLE)
    (place / ".made by the other").mkdir()
    with FileLock(place / f".{key}.lock"):
        running = start_server(environment={"GLIMPSE_CACHE": str(tmp_path / "cache")})
        running.wait_for("waiting for another server that converts the same network")
        running.terminate()
        assert running.exit_code(seconds=SECONDS) == 0
        assert {path.name for path in place.iterdir()} == {f".{key}.lock", ".made by the other"}


def test_a_server_that_fetches_from_somebody_silent_ends_all_the_same(start_server: Start, tmp_path: Path) -> None:
    """A server that fetches from somebody who does not answer ends all the same."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        running = start_server(
            "--model=squeezenet1_1",
            "--weights=imagenet",
            environment={"GLIMPSE_CACHE": str(tmp_path / "cache"), "HTTPS_PROXY": proxy, "https_proxy": proxy},
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            running.terminate()
            assert running.exit_code(seconds=SECONDS) == 0
    assert running.wait_for("fetching weights")["url"].startswith("https://")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.ci)])
def test_what_was_told_to_stop_before_it_was_prepared_says_so_by_its_exit_code(
    tmp_path: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "GLIMPSE_CACHE": str(tmp_path / "cache"), "GLIMPSE_LOG_FORMAT": "json"}
    for event in (None, "settings"):  # at once, and while it loads
        command = [sys.executable, "-m", "glimpse.server", "prepare"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            wait_until(listens_to(process.pid))
            if event is not None:
                assert event in (json.loads(line)["event"] for line in process.stderr)
                wait_until(lambda: children(process.pid, "glimpse.server.runtime.conversion_worker"))
            process.send_signal(number)
            assert process.wait(SECONDS) == 128 + number
        assert not (tmp_path / "cache").exists()


def test_what_a_library_began_and_waits_for_ends_with_the_process() -> None:
    script = (
        "import os, subprocess, sys\n"
        "from glimpse.server.processes import stopping\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(other.pid, flush=True)\n"
        "stopping.end_children()\n"
        "os._exit(0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    wait_until(lambda: not is_there(int(ended.stdout)))


def is_there(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
