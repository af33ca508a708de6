"""A cache that somebody else can write into: what they put there is not followed, nor written to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from glimpse.models.published import DownloadPolicy, FetchError, fetch
from glimpse.models.published.safe_writing import write_atomically
from tests.models.full_disk import files_of
from tests.models.web import BODY, QUICK, Server, checkpoint, serving, truncated

PRECIOUS = b"nothing of this may change\n"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of ours outside of the cache."""
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


NAMES = ["net.h5.part", "net.h5.part.etag", "net.h5.sha256", "net.h5.lock"]


@pytest.mark.parametrize("name", NAMES)
def test_a_link_that_lies_in_wait_is_never_written_through(
    server: Server, cache: Path, precious: Path, name: str
) -> None:
    (cache / name).symlink_to(precious)
    server.script = [truncated]
    with contextlib.suppress(FetchError):
        fetch(checkpoint(server.url), cache, policy=QUICK)
    assert precious.read_bytes() == PRECIOUS


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_what_is_not_there_makes_no_file(server: Server, cache: Path, tmp_path: Path, name: str) -> None:
    (cache / name).symlink_to(tmp_path / "made")
    server.script = [truncated]
    with contextlib.suppress(FetchError):
        fetch(checkpoint(server.url), cache, policy=QUICK)
    assert not (tmp_path / "made").exists()


def test_a_second_name_of_a_file_elsewhere_is_not_added_to(server: Server, cache: Path, precious: Path) -> None:
    (cache / "net.h5.part").hardlink_to(precious)
    (cache / "net.h5.part.etag").write_text(server.etag)
    with pytest.raises(FetchError, match="not a regular file of this user"):
        fetch(checkpoint(server.url), cache, policy=QUICK)
    assert precious.read_bytes() == PRECIOUS


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_pipe_that_lies_in_wait_does_not_hang(server: Server, cache: Path, name: str) -> None:
    os.mkfifo(cache / name)
    server.script = [truncated]
    with contextlib.suppress(FetchError):
        assert fetch(checkpoint(server.url), cache, policy=QUICK).read_bytes() == BODY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_a_part_that_another_user_has_left_is_not_gone_on_with(server: Server, cache: Path) -> None:
    """They could change it after its hash has been checked."""
    (cache / "net.h5.part").write_bytes(BODY[:10])
    (cache / "net.h5.part.etag").write_text(server.etag)
    os.chown(cache / "net.h5.part", 12345, 12345)
    with pytest.raises(FetchError, match="not a regular file of this user, so it is not written"):
        fetch(checkpoint(server.url), cache, policy=QUICK)
    assert (cache / "net.h5.part").read_bytes() == BODY[:10]


def test_a_record_is_written_whole_with_the_usual_rights(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "record").symlink_to(precious)
    write_atomically(tmp_path / "record", b"new")
    assert (tmp_path / "record").read_bytes() == b"new"
    assert stat.S_ISREG((tmp_path / "record").lstat().st_mode)
    assert precious.read_bytes() == PRECIOUS
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o666 & ~mask
    assert {path.name for path in tmp_path.iterdir()} == {"record", "precious"}


def test_a_lock_that_is_never_let_go_is_not_waited_for_without_end(server: Server, cache: Path) -> None:
    with FileLock(cache / "net.h5.lock"), pytest.raises(FetchError, match=r"Another process has held .*net\.h5\.lock"):
        fetch(checkpoint(server.url), cache, policy=DownloadPolicy(seconds=0.1))
    assert server.requests == []


def test_a_full_disk_leaves_the_file_that_is_there(tmp_path: Path) -> None:
    """Of an unbuffered file it takes a part, without an error."""
    (tmp_path / "record").write_bytes(b"old")
    with files_of(100), pytest.raises(OSError, match="File too large"):
        write_atomically(tmp_path / "record", bytes(1000))
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
    assert (tmp_path / "record").read_bytes() == b"old"
