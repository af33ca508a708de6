"""The cache of published checkpoints: hashes that are checked, files put there by hand, several processes."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse.models.published import FetchError, cache_folder, fetch
from glimpse.models.published import cache as cache_module
from tests.models.web import (
    BODY,
    HALF,
    Handler,
    Server,
    checkpoint,
    leftovers,
    serving,
    stalled,
    whole,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


# --- hashes: stated, first seen, put there by hand


def test_without_a_published_hash_the_first_copy_is_recorded_and_users_are_told(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no hash is published, that of the first copy is recorded, and the user is told."""
    with caplog.at_level(logging.WARNING):
        fetch(checkpoint(server.url, None), tmp_path)
        fetch(checkpoint(server.url, None), tmp_path)
    (record,) = caplog.records
    assert "keras publishes no hash of net.h5" in record.getMessage()
    assert hashlib.sha256(BODY).hexdigest() in record.getMessage()
    assert vars(record)["event"] == "no published hash", "what a structured log calls it"


def test_from_then_on_another_file_is_refused_until_the_record_is_deleted(server: Server, tmp_path: Path) -> None:
    path = fetch(checkpoint(server.url, None), tmp_path)
    path.unlink()
    server.body, server.etag = BODY[::-1], '"second"'
    with pytest.raises(FetchError, match=r"not the file that was used first.*delete .*net.h5.sha256"):
        fetch(checkpoint(server.url, None), tmp_path)
    assert leftovers(tmp_path) == {"net.h5.sha256"}
    (tmp_path / "net.h5.sha256").unlink()
    assert fetch(checkpoint(server.url, None), tmp_path).read_bytes() == BODY[::-1]


def test_a_file_that_rots_in_the_cache_is_found_out_and_left_to_its_owner(server: Server, tmp_path: Path) -> None:
    path = fetch(checkpoint(server.url, None), tmp_path)
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(FetchError, match=f"Delete {path} to fetch it again"):
        fetch(checkpoint(server.url, None), tmp_path)
    assert path.exists()


def test_a_file_put_there_by_hand_is_taken_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(BODY)
    assert fetch(checkpoint("https://unreachable.invalid/net.h5"), tmp_path) == tmp_path / "net.h5"
    assert (tmp_path / "net.h5.sha256").exists()


def test_another_file_put_there_by_hand_is_not(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"another")
    with pytest.raises(FetchError, match="not what keras published"):
        fetch(checkpoint("https://unreachable.invalid/net.h5"), tmp_path)
    assert (tmp_path / "net.h5").read_bytes() == b"another"


def test_a_record_that_holds_no_hash_is_refused(server: Server, tmp_path: Path) -> None:
    path = fetch(checkpoint(server.url), tmp_path)
    (tmp_path / "net.h5.sha256").write_text("")
    with pytest.raises(FetchError, match="does not contain a SHA-256"):
        fetch(checkpoint(server.url), tmp_path)
    assert path.exists()


def test_a_hash_that_cannot_be_recorded_is_told_and_the_file_serves_anyway(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "write_atomically", full)
    (tmp_path / "net.h5").write_bytes(BODY)
    assert fetch(checkpoint("https://unreachable.invalid/net.h5"), tmp_path) == tmp_path / "net.h5"
    assert "the hash of net.h5 is not recorded" in caplog.text


# --- several processes, and one that dies


PROGRAM = """
import logging, sys
from pathlib import Path
from glimpse.models.published import fetch
from tests.models.web import checkpoint
logging.basicConfig(level=logging.INFO, format="%(message)s")
print(fetch(checkpoint(sys.argv[1]), Path(sys.argv[2])))
"""


def another_process(server: Server, cache: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, server.url, str(cache)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def said(process: subprocess.Popen[str], words: str) -> None:
    """Wait until the process has logged a line with these words."""
    assert process.stderr is not None
    assert any(words in line for line in iter(process.stderr.readline, "")), f"it never said {words!r}"


def test_two_processes_that_want_the_same_file_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    def held(handler: Handler) -> None:
        server.release.wait(60)
        whole(handler)

    server.script = [held]
    first = another_process(server, tmp_path)
    said(first, "fetching")
    second = another_process(server, tmp_path)
    said(second, "waiting for another process")
    server.release.set()
    for process in (first, second):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.strip() == str(tmp_path / "net.h5")
    assert len(server.requests) == 1
    assert (tmp_path / "net.h5").read_bytes() == BODY
    assert leftovers(tmp_path) == {"net.h5", "net.h5.sha256"}


def test_what_a_killed_process_had_fetched_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.script = [stalled]
    process = another_process(server, tmp_path)
    part = tmp_path / "net.h5.part"
    while not (part.exists() and part.stat().st_size == HALF):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert fetch(checkpoint(server.url), tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_the_bar_shows_on_a_terminal_and_nowhere_else(server: Server, tmp_path: Path) -> None:
    quiet = another_process(server, tmp_path / "quiet")
    _, errors = quiet.communicate(timeout=60)
    assert "%" not in errors
    assert "kB" not in errors

    ours, theirs = pty.openpty()
    shown = another_process(server, tmp_path / "shown", stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    shown.communicate(timeout=60)
    os.close(ours)
    assert b"10.2/10.2 kB" in seen


# --- the folder


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("GLIMPSE_CACHE", "~/weights")
    assert cache_folder() == Path("/home/someone/weights")
    monkeypatch.delenv("GLIMPSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/glimpse/weights")


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", ".cache/glimpse/weights"),
        ("darwin", "Library/Caches/glimpse/weights"),
        ("win32", "AppData/Local/glimpse/weights"),
    ],
)
def test_the_cache_is_otherwise_where_the_platform_has_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, folder: str
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("GLIMPSE_CACHE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path("/home/someone") / folder
