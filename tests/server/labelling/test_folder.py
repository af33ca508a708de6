"""The folder of samples: its files, its limits, and what happens when the disk or another process is in the way."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glimpse.server.labelling.folder import MARK, Limits, SampleFolder
from tests.conftest import ROOT

DAY = 86_400.0
ROOMY = Limits(1000, 1 << 30, 30 * DAY)


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def facts(*reasons: str) -> dict[str, Any]:
    return {"request_id": "r", "reasons": list(reasons), "first": [], "true_class": None}


def opened(path: Path, clock: Clock, limits: Limits = ROOMY) -> SampleFolder:
    folder = SampleFolder(path, limits, clock=clock)
    folder.open()
    return folder


def h(name: str) -> str:
    """A name as samples have them, from a short one."""
    return name.encode().hex().ljust(32, "0")


def add(folder: SampleFolder, name: str, size: int = 1000, reason: str = "random") -> None:
    folder.add(h(name), bytes(size), ".jpg", facts(reason))


def names(path: Path) -> set[str]:
    """The short names of all files."""
    return {
        each.name.replace(each.stem, bytes.fromhex(each.stem).rstrip(b"\0").decode())
        for each in path.iterdir()
        if each.name != MARK
    }


def taken(path: Path) -> int:
    """Bytes of all files."""
    return sum(each.stat().st_size for each in path.iterdir() if each.name != MARK)


def test_a_sample_is_two_files_that_their_owner_alone_can_read(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "new" / "samples"
    before = os.umask(0)
    try:
        folder = opened(path, clock)
        add(folder, "a1")
    finally:
        os.umask(before)
    assert names(path) == {"a1.jpg", "a1.json"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {0o600}
    said = json.loads((path / f"{h('a1')}.json").read_text())
    assert said == {**facts("random"), "file": h("a1") + ".jpg"}
    assert folder.totals.images == 1
    assert folder.totals.bytes == taken(path)


def test_a_sample_that_is_kept_for_another_reason_has_both(tmp_path: Path, clock: Clock) -> None:
    folder = opened(tmp_path, clock)
    add(folder, "a1")
    folder.add(h("a1"), b"", ".jpg", {**facts("disagreement"), "other": {"label": "dog"}})
    said = folder.facts(h("a1"))
    assert said is not None
    assert said["reasons"] == ["random", "disagreement"]
    assert said["other"] == {"label": "dog"}
    assert (tmp_path / f"{h('a1')}.jpg").stat().st_size == 1000
    assert folder.totals.images == 1


def test_the_true_class_is_written_beside_the_image(tmp_path: Path, clock: Clock) -> None:
    folder = opened(tmp_path, clock)
    add(folder, "a1")
    assert folder.label(h("a1"), "tiger cat")
    assert not folder.label(h("b2"), "tiger cat")
    said = folder.facts(h("a1"))
    assert said is not None
    assert said["true_class"] == "tiger cat"
    folder.tidy()
    clock.now += 61
    folder.tidy()
    assert folder.totals.bytes == taken(tmp_path)


def test_above_the_number_the_oldest_go_and_labelled_ones_last(tmp_path: Path, clock: Clock) -> None:
    folder = opened(tmp_path, clock, Limits(4, 1 << 30, DAY))
    for number in range(4):
        clock.now += 1
        add(folder, f"a{number}")
    folder.label(h("a0"), "cat")
    clock.now += 1
    add(folder, "b")
    assert {name for name in names(tmp_path) if name.endswith(".json")} == {"a0.json", "a2.json", "a3.json", "b.json"}
    for number in range(9):
        folder.label(h(f"b{number - 1}" if number else "b"), "cat")
        clock.now += 1
        add(folder, f"b{number}")
        assert folder.totals.images <= 4
    assert folder.deleted == 1 + 9
    assert folder.facts(h("a0")) is None  # where all have a class, the oldest goes


def test_the_bytes_of_all_files_stay_within_their_limit(tmp_path: Path, clock: Clock) -> None:
    most = 50_000
    folder = opened(tmp_path, clock, Limits(1000, most, DAY))
    for number in range(30):
        clock.now += 1
        add(folder, f"a{number:02}", 9000)
        assert taken(tmp_path) <= most
    assert (tmp_path / f"{h('a29')}.jpg").exists()
    with pytest.raises(OSError, match="MAX_BYTES"):
        add(folder, "large", most)
    assert (tmp_path / f"{h('a29')}.jpg").exists()


def test_what_is_too_old_goes_labelled_or_not_and_strays_too(tmp_path: Path, clock: Clock) -> None:
    folder = opened(tmp_path, clock, Limits(1000, 1 << 30, 2 * DAY))
    add(folder, "old")
    folder.label(h("old"), "cat")
    clock.now += DAY
    add(folder, "new")
    stray = tmp_path / f".{h('half')}.jpg.part"
    stray.write_bytes(b"x")
    os.utime(stray, (clock.now, clock.now))
    clock.now += DAY + 1
    folder.label(h("old"), "dog")  # is no new image
    folder.tidy()
    assert names(tmp_path) == {"new.jpg", "new.json"}
    assert folder.totals.images == 1


def test_a_folder_is_counted_anew_when_it_is_opened(tmp_path: Path, clock: Clock) -> None:
    folder = opened(tmp_path, clock)
    for number in range(3):
        add(folder, f"a{number}")
    (tmp_path / f"{h('a1')}.jpg").unlink()
    (tmp_path / f"{h('a1')}.json").unlink()
    (tmp_path / MARK).write_text("damaged")
    again = opened(tmp_path, clock)
    assert again.totals.images == 2


def test_links_are_neither_followed_nor_written_through(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "samples"
    folder = opened(path, clock)
    target = tmp_path / "target"
    target.write_text("mine")
    (path / f"{h('a1')}.jpg").symlink_to(target)
    (path / f".{h('a1')}.jpg.part").symlink_to(target)
    (path / f"{h('b2')}.json").symlink_to(target)
    add(folder, "a1")
    assert not folder.label(h("b2"), "cat")
    assert target.read_text() == "mine"


def test_a_folder_that_is_gone_is_an_error_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "samples"
    folder = opened(path, clock)
    (path / MARK).unlink()
    path.rmdir()
    with pytest.raises(FileNotFoundError):
        add(folder, "a1")
    assert not folder.label(h("a1"), "cat")
    path.mkdir()
    add(folder, "a1")
    assert names(path) == {"a1.jpg", "a1.json"}


def test_what_is_not_a_sample_is_neither_counted_nor_deleted(tmp_path: Path, clock: Clock) -> None:
    """As in a folder that has photos of its own."""
    others = [tmp_path / name for name in ("beach.jpg", "notes.json", ".hidden", "f" * 31 + ".jpg")]
    for each in others:
        each.write_bytes(b"mine")
        os.utime(each, (0, 0))
    folder = opened(tmp_path, clock, Limits(2, 20_000, DAY))
    for number in range(5):
        clock.now += DAY
        add(folder, f"a{number}")
    assert folder.totals.images == 2
    assert all(each.read_bytes() == b"mine" for each in others)


def test_a_folder_of_photos_named_by_hashes_is_refused(tmp_path: Path, clock: Clock) -> None:
    """Their names are those of samples, and they would be deleted as what is left of some."""
    photo = tmp_path / f"{'0a' * 16}.jpg"
    photo.write_bytes(b"mine")
    os.utime(photo, (0, 0))
    with pytest.raises(OSError, match="Name an empty folder"):
        opened(tmp_path, clock)
    assert photo.read_bytes() == b"mine"
    assert not (tmp_path / MARK).exists()


_OTHER = """
import sys
from pathlib import Path
from glimpse.server.labelling.folder import Limits, SampleFolder
path, which = Path(sys.argv[1]), sys.argv[2]
folder = SampleFolder(path, Limits(20, 1 << 30, 86400.0))
folder.open()
for number in range(60):
    folder.add(f"{which}{number:031x}", bytes(500), ".jpg", {"reasons": ["random"]})
    assert folder.totals.images <= 20, folder.totals
    assert sum(each.suffix == ".json" for each in path.iterdir()) <= 21
"""


def test_several_processes_keep_to_the_same_limits(tmp_path: Path) -> None:
    """Each looks at the folder while another one may be between its two files."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    running = [
        subprocess.Popen([sys.executable, "-c", _OTHER, str(tmp_path), which], env=environment, stderr=subprocess.PIPE)
        for which in "ab"
    ]
    for each in running:
        _, said = each.communicate(timeout=60)
        assert each.returncode == 0, said.decode()
    folder = SampleFolder(tmp_path, Limits(20, 1 << 30, DAY))
    folder.open()
    assert folder.totals.images <= 20
    assert folder.totals.images == sum(each.suffix == ".json" for each in tmp_path.iterdir())
