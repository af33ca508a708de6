"""The process that converts: how long it may take, what it leaves, and that of several servers one converts."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import structlog
from filelock import FileLock

from glimpse.models import bundle as bundles
from glimpse.models.files import digests
from glimpse.models.spec import NetworkSummary
from glimpse.server.processes import cleanup
from glimpse.server.processes.child_output import ChildOutput
from glimpse.server.processes.cleanup import Cleanup, StoppedError
from glimpse.server.runtime import (
    UnsupportedNetworkError,
    converted_cache,
    converted_key,
    memory_budget,
    process_limits,
)
from glimpse.server.runtime.conversion import get_or_convert
from tests.conftest import ROOT, RunningServer

BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)
MANY = replace(  # more than a pipe holds
    BUNDLE, labels=tuple(bundles.ClassLabel(f"class {number}", "of many") for number in range(20_000))
)
HANGS = "import time; time.sleep(1000)"
# Writes what a conversion writes, without TensorFlow; the count of its runs is in a file.
CONVERTS = """
import pathlib, json, sys, time
folder = pathlib.Path(sys.argv[1])
with open({runs!r}, "a") as file:
    file.write("x")
time.sleep(0.5)
(folder / "network.xml").write_text("graph")
(folder / "network.bin").write_text("weights")
print(json.dumps({{"network": {network!r}}}))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have another program run in place of the conversion."""
    popen = subprocess.Popen

    def program(script: str) -> None:
        def other(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            return popen([sys.executable, "-c", script, *command[4:]], **options)  # type: ignore[call-overload,no-any-return]

        monkeypatch.setattr(subprocess, "Popen", other)

    return program


def gone(pid: int) -> bool:
    """Whether a process has ended, waiting for that."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("bundle", [BUNDLE, MANY], ids=["reads nothing", "does not even take its orders"])
def test_a_conversion_that_hangs_is_ended_in_time_and_told_as_that(
    cache: Path, instead: Callable[[str], None], bundle: bundles.Bundle
) -> None:
    instead(HANGS)
    with pytest.raises(UnsupportedNetworkError, match=r"took more than 0\.5 s\..*GLIMPSE_CONVERSION_SECONDS"):
        get_or_convert(bundle, seconds=0.5)
    assert list((cache / "networks").iterdir()) == []


def test_what_a_conversion_began_ends_with_it(cache: Path, instead: Callable[[str], None], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    instead(
        "import subprocess, sys, pathlib\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(other.pid))\n"
        "raise SystemExit(3)"
    )
    with pytest.raises(UnsupportedNetworkError, match="exit code 3"):
        get_or_convert(BUNDLE)
    assert gone(int(pid.read_text()))


def test_a_kill_for_want_of_memory_is_told_as_that(
    cache: Path, instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([7, 8])
    monkeypatch.setattr(memory_budget, "killed_for_memory", lambda: next(counts))
    instead("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(MemoryError, match="because memory ran out"):
        get_or_convert(BUNDLE)


def test_what_it_says_is_logged_in_our_form_and_never_comes_out_unread(
    cache: Path, instead: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    warning = json.dumps({"event": "odd weights", "level": "warning", "timestamp": "now", "detail": "of a test"})
    instead(
        f"import sys; print('WARNING: greetings', file=sys.stderr); print({warning!r}, file=sys.stderr); sys.exit(1)"
    )
    with structlog.testing.capture_logs() as logs, pytest.raises(UnsupportedNetworkError, match="greetings"):
        get_or_convert(BUNDLE)
    told = {"event": "odd weights", "log_level": "warning", "detail": "of a test", "process_kind": "conversion"}
    assert told in logs
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "line", ['{"level": ["info"], "event": "odd"}', '{"a":' * 390, '{"level": "info"}', '{"level": "info", "event": 7}']
)
def test_what_only_looks_like_a_line_of_our_log_is_heard_as_what_it_is(line: str) -> None:
    said = f"{line}\nthe last words\n".encode()
    with structlog.testing.capture_logs() as lines:
        heard = ChildOutput(io.BytesIO(said), "conversion").tail(30.0)
    assert lines == []
    assert heard.removeprefix("...") == f"{line} | the last words"[-600:]


def test_of_what_it_says_no_more_is_told_than_a_person_reads(cache: Path, instead: Callable[[str], None]) -> None:
    instead("import sys; sys.stderr.write('word ' * 1_000_000 + 'end'); sys.exit(1)")
    with pytest.raises(UnsupportedNetworkError) as refused:
        get_or_convert(BUNDLE)
    assert str(refused.value).endswith("end")
    assert len(str(refused.value)) < 1000


def test_an_end_from_outside_ends_the_process_and_leaves_nothing(cache: Path, instead: Callable[[str], None]) -> None:
    instead(HANGS)
    started, raised = Cleanup(), []

    def start() -> None:
        with cleanup.within(started):
            try:
                get_or_convert(BUNDLE)
            except StoppedError as error:
                raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    end = time.monotonic() + 30
    while not started._processes and time.monotonic() < end:
        time.sleep(0.01)
    (process,) = started._processes
    started.end()
    thread.join(30)
    assert raised
    assert process.returncode == -signal.SIGKILL
    assert not cache.exists()
    with pytest.raises(StoppedError), cleanup.within(started):
        get_or_convert(BUNDLE)
    assert not cache.exists()


def converts(runs: Path) -> str:
    summary = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)
    return CONVERTS.format(runs=str(runs), network=asdict(summary))


def test_of_servers_that_start_at_once_one_converts_and_the_others_take_it(
    cache: Path, instead: Callable[[str], None], tmp_path: Path
) -> None:
    instead(converts(tmp_path / "runs"))
    with ThreadPoolExecutor(4) as servers:
        found = list(servers.map(lambda _: get_or_convert(BUNDLE), range(4)))
    assert (tmp_path / "runs").read_text() == "x"
    assert {each.folder for each in found} == {found[0].folder}
    assert all(each.cached for each in found)
    assert list((cache / "networks").iterdir()) == [found[0].folder]


def test_what_another_server_put_there_meanwhile_is_not_removed(
    cache: Path, instead: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the first look and the lock."""
    instead(converts(tmp_path / "runs"))
    kept = get_or_convert(BUNDLE).folder
    aside, looks = kept.rename(tmp_path / "aside"), []
    before = (aside / "network.bin").stat().st_ino
    read = converted_cache.read

    def look(folder: Path, **options: bool) -> object:
        looks.append(read(folder, **options))
        if len(looks) == 1:
            assert looks == [None]
            aside.rename(kept)
        return looks[-1]

    monkeypatch.setattr(converted_cache, "read", look)
    assert get_or_convert(BUNDLE).folder == kept
    assert (kept / "network.bin").stat().st_ino == before
    assert (tmp_path / "runs").read_text() == "x"


def test_what_killed_servers_left_is_removed_after_a_day(cache: Path) -> None:
    place = cache / "networks"
    for name in (".old", ".new"):
        (place / name).mkdir(parents=True)
        (place / f"{name}.lock").touch()
    day = time.time() - 25 * 3600
    for name in (".old", ".old.lock"):
        os.utime(place / name, (day, day))
    converted_cache._tidy(place)
    assert sorted(path.name for path in place.iterdir()) == [".new", ".new.lock"]


def test_a_network_that_is_used_as_it_is_to_be_removed_stays(
    cache: Path, instead: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(converts(tmp_path / "runs"))
    kept = get_or_convert(BUNDLE).folder
    month = time.time() - 31 * 24 * 3600
    os.utime(kept / "network.json", (month, month))
    rename = Path.rename

    def slowly(path: Path, target: Path) -> Path:
        if path == kept:
            os.utime(kept / "network.json")  # another server, at the last moment
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slowly)
    converted_cache._tidy(cache / "networks")
    assert list((cache / "networks").iterdir()) == [kept]
    assert get_or_convert(BUNDLE).cached
    assert (tmp_path / "runs").read_text() == "x"


def test_a_lock_that_is_never_given_back_does_not_keep_a_server_from_starting(
    cache: Path, instead: Callable[[str], None], tmp_path: Path
) -> None:
    instead(converts(tmp_path / "runs"))
    place = cache / "networks"
    place.mkdir(parents=True)
    with FileLock(place / f".{converted_key.identity(BUNDLE)}.lock"):
        assert get_or_convert(BUNDLE, seconds=3).cached
    assert (tmp_path / "runs").read_text() == "x"


def test_a_conversion_that_takes_too_long_costs_a_server_of_openvino_its_start(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    running = start_server(
        "--runtime=openvino", "--conversion-seconds=0.2", environment={"GLIMPSE_CACHE": str(tmp_path / "cache")}
    )
    assert running.exit_code() == 4
    assert "took more than 0.2 s" in running.wait_for("cannot start")["detail"]
    assert list((tmp_path / "cache" / "networks").iterdir()) == []
    assert running.stray == []


# --- a whole model of a user's own


@pytest.fixture
def own(tmp_path: Path) -> bundles.Bundle:
    """A bundle whose file says what it is by itself; the file is never read here."""
    (tmp_path / "model.keras").write_bytes(bytes(1000))
    return replace(
        BUNDLE,
        folder=tmp_path,
        weights_file="model.keras",
        weights_digest=digests.digest(tmp_path / "model.keras"),
        architecture="",
        variant="",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells how much memory a process has")
def test_a_model_that_grows_without_end_is_ended_and_nobody_else_tries_it(
    own: bundles.Bundle, cache: Path, instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_limits, "_FRAMEWORKS", 100 << 20)
    monkeypatch.setattr(process_limits, "_A_CORE", 0)
    instead("import time; x = [bytearray(b'x') * (1 << 20) for _ in range(400)]; time.sleep(1000)")
    with pytest.raises(ValueError, match=r"took more than \d+ MiB of memory, which is far more") as raised:
        get_or_convert(own, seconds=120)
    assert not isinstance(raised.value, UnsupportedNetworkError)
    assert not list(cache.glob("networks/*"))


def test_a_model_that_never_ends_is_ended_and_no_other_runtime_tries_it(
    own: bundles.Bundle, cache: Path, instead: Callable[[str], None]
) -> None:
    instead(HANGS)
    with pytest.raises(ValueError, match=r"took more than 1 s\. If you trust the source of the file") as raised:
        get_or_convert(own, seconds=1)
    assert not isinstance(raised.value, UnsupportedNetworkError)
    assert not list(cache.glob("networks/*"))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_the_kernel_holds_the_conversion_of_a_model_to_limits(own: bundles.Bundle) -> None:
    program = f"""
import pickle, resource, sys
sys.path.insert(0, {str(ROOT)!r})
from glimpse.server.runtime import process_limits
process_limits.enforce(pickle.load(sys.stdin.buffer), 10)
for what in ("DATA", "CORE", "NOFILE", "CPU"):
    print(resource.getrlimit(getattr(resource, f"RLIMIT_{{what}}"))[0])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(own), capture_output=True, check=True, timeout=120
    )
    data, core, files, seconds = map(int, ended.stdout.split())
    most = process_limits.memory(own)
    assert most is not None
    assert (data, core) == (2 * most, 0)
    assert files <= 1024
    assert 0 < seconds <= 11 * (os.cpu_count() or 1)


def test_a_network_of_the_library_may_take_any_memory() -> None:
    assert process_limits.memory(BUNDLE) is None
