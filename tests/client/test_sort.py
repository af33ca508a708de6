"""Photos into folders by label, and back. The scripted server takes a photo's content for its label."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glimpse.client.commands.placing import Method, folder_name, free_place, put
from glimpse.client.commands.sorting import Sorter, unsort
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import ScriptedServer
from tests.variations import mostly_in_ci


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def tree(folder: Path) -> dict[str, str]:
    """Every file by its path, but for the lists."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("undo-")
    }


PHOTOS = {"a.jpg": "cat", "b.jpg": "dog", "deep/a.jpg": "cat ", "deep/c.jpg": "cat", "notes.txt": "not asked for"}
SORTED = {"cat/a.jpg": "cat", "dog/b.jpg": "dog", "cat/a-2.jpg": "cat ", "cat/c.jpg": "cat"}


@pytest.mark.parametrize("option", mostly_in_ci([None, "--link", "--symlink", "--move"], None, "--move"))
def test_photos_go_into_the_folder_of_their_label_and_back(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path, option: str | None
) -> None:
    write(tmp_path / "photos", PHOTOS)
    command = ["sort", "photos", "--into", "sorted", *([option] if option else []), "--target", scripted.target]
    ended = glimpse(*command)

    assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "sorted") == SORTED
    assert tree(tmp_path / "photos") == ({"notes.txt": "not asked for"} if option == "--move" else PHOTOS)
    assert (tmp_path / "sorted/cat/a.jpg").is_symlink() == (option == "--symlink")
    if option == "--link":
        assert (tmp_path / "sorted/cat/a.jpg").samefile(tmp_path / "photos/a.jpg")
    assert "photos/a.jpg -> sorted/cat/a.jpg (cat 75.0%)" in ended.stdout.splitlines()

    again = glimpse(*command)
    assert again.returncode == 0
    assert tree(tmp_path / "sorted") == SORTED, "what is there already is not put there again"

    found = re.search(rf"^To undo this: {CLI} unsort (\S+)$", ended.stderr, re.MULTILINE)
    assert found is not None, "by the name that the program was called by"
    back = glimpse("unsort", found[1])
    kept = f"The list {found[1]} is kept. It is of no more use and may be deleted.\n"
    assert (back.returncode, back.stderr) == (0, f"{kept}4 undone, 0 left alone, 0 failed.\n")
    assert tree(tmp_path / "photos") == PHOTOS
    assert tree(tmp_path / "sorted") == {}
    assert not (tmp_path / "sorted/cat").exists()
    again = glimpse("unsort", found[1])
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "This run has been undone already: none of the photos is where it was put.\n"


def test_a_dry_run_says_where_photos_would_go_and_touches_nothing(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path / "photos", PHOTOS | {"e/a.jpg": "cat"})
    ended = glimpse("sort", "photos", "--into", "sorted", "--move", "--dry-run", "--target", scripted.target)

    assert ended.stdout.splitlines() == [
        "photos/a.jpg -> sorted/cat/a.jpg (cat 75.0%)",
        "photos/b.jpg -> sorted/dog/b.jpg (dog 75.0%)",
        "photos/deep/a.jpg -> sorted/cat/a-2.jpg (cat  75.0%)",
        "photos/deep/c.jpg -> sorted/cat/c.jpg (cat 75.0%)",
        "photos/e/a.jpg: already there (cat 75.0%)",
    ]
    assert ended.stderr == "4 would be moved, 1 left alone, 0 failed.\n"
    assert not (tmp_path / "sorted").exists()
    assert tree(tmp_path / "photos") == PHOTOS | {"e/a.jpg": "cat"}


def test_what_is_not_probable_enough_goes_to_unsure_and_what_fails_stays(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    """What is less probable than asked for goes to the folder `unsure`, and what fails stays where it is."""
    write(tmp_path / "photos", {"a.jpg": "cat", "b.jpg": "bad bytes"})
    command = ["sort", "photos", "gone.jpg", "--into", "sorted", "--target", scripted.target]
    ended = glimpse(*command, "--min-probability", "0.8")

    assert ended.returncode == 1
    assert tree(tmp_path / "sorted") == {"unsure/a.jpg": "cat"}
    assert "photos/b.jpg: NOT_AN_IMAGE: bad bytes is no image." in ended.stdout
    assert "gone.jpg: FILE_NOT_FOUND" in ended.stdout
    assert "1 copied, 0 left alone, 2 failed." in ended.stderr


def test_the_folder_may_lie_among_the_photos(scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "cat", "z.jpg": "dog"})
    for _ in range(2):
        ended = glimpse("sort", ".", "--into", "./sorted/", "--target", scripted.target)
        assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "sorted") == {"cat/a.jpg": "cat", "dog/z.jpg": "dog"}


def test_photos_of_others_are_never_written_over_or_taken_back(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, {"photos/a.jpg": "cat", "photos/b.jpg": "cat", "sorted/cat/a.jpg": "another cat"})
    (tmp_path / "sorted/cat/b.jpg").symlink_to("nowhere")
    assert glimpse("sort", "photos", "--into", "sorted", "--target", scripted.target).returncode == 0
    assert tree(tmp_path / "sorted") == {"cat/a.jpg": "another cat", "cat/a-2.jpg": "cat"} | {"cat/b-2.jpg": "cat"}
    assert (tmp_path / "sorted/cat/b.jpg").is_symlink()

    (tmp_path / "sorted/cat/b-2.jpg").write_text("retouched")
    [undo_list] = (tmp_path / "sorted").glob("undo-*")
    back = glimpse("unsort", undo_list)
    assert back.returncode == 1
    assert "CHANGED" in back.stdout
    assert tree(tmp_path / "sorted") == {"cat/a.jpg": "another cat", "cat/b-2.jpg": "retouched"}


def test_the_last_copy_of_a_photo_is_not_taken_back(tmp_path: Path) -> None:
    for method in Method:
        write(tmp_path, {f"{method}.jpg": "cat"})
        place = str(tmp_path / "sorted" / f"{method}.jpg")
        put(str(tmp_path / f"{method}.jpg"), place, method)
        if method is not Method.MOVE:
            (tmp_path / f"{method}.jpg").unlink()
        entry = {"how": method, "source": str(tmp_path / f"{method}.jpg"), "place": place}
        (tmp_path / "list").write_text(json.dumps(entry) + "\n")
        [back] = unsort(tmp_path / "list")
        assert back.failed == (method is not Method.MOVE)
        if method is Method.MOVE:
            assert (tmp_path / "moved.jpg").read_text() == "cat"
        else:
            assert os.path.lexists(place)


def test_a_file_that_is_no_list_is_refused(glimpse: Glimpse, tmp_path: Path) -> None:
    for content in ("a letter\n", '{"how": "burnt", "source": "a", "place": "b"}\n', "[]\n"):
        (tmp_path / "list").write_text(content)
        ended = glimpse("unsort", "list")
        assert ended.returncode == 2
        assert "not an undo list of `sort`" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("tabby, tabby cat", "tabby, tabby cat"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        ("", "_"),
        ("/", "_"),
        (".hidden", "hidden"),
        ("a\\b:c*", "a_b_c_"),
        ("line\nbreak\x1b[2J\0", "line_break_[2J_"),
        ("unsure", "unsure_"),
        ("Käse ", "Käse"),
        ("ü" * 200, "ü" * 60),
    ],
)
def test_a_label_is_never_a_way_out_of_the_folder(label: str, folder: str) -> None:
    assert folder_name(label) == folder


def test_where_there_are_no_hard_links_copies_and_moves_work_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT does

    monkeypatch.setattr(os, "link", refused)
    for method in (Method.COPY, Method.MOVE):
        write(tmp_path, {"a.jpg": "cat"})
        put(str(tmp_path / "a.jpg"), str(tmp_path / method / "a.jpg"), method)
        assert tree(tmp_path / method) == {"a.jpg": "cat"}
        write(tmp_path, {"a.jpg": "dog"})
        with pytest.raises(FileExistsError):
            put(str(tmp_path / "a.jpg"), str(tmp_path / method / "a.jpg"), method)
        assert tree(tmp_path / method) == {"a.jpg": "cat"}
        assert (tmp_path / "a.jpg").read_text() == "dog"


def test_what_a_copy_that_was_killed_left_behind_is_no_photo(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "cat", "sorted/cat/.a.jpg.glimpse-partial": "c"})
    folder = str(tmp_path / "sorted" / "cat")
    place = free_place(str(tmp_path / "a.jpg"), folder, {})
    assert place == f"{folder}/a.jpg"
    put(str(tmp_path / "a.jpg"), place, Method.COPY)
    assert tree(tmp_path / "sorted") == {"cat/a.jpg": "cat"}


@pytest.mark.parametrize("option", mostly_in_ci(["--move", "--link"], "--move"))
def test_a_killed_run_loses_nothing_and_can_be_started_again_or_taken_back(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path, option: str
) -> None:
    photos = {f"{number:03}.jpg": f"label {number % 7}" for number in range(300)}
    write(tmp_path / "photos", photos)
    command = ["sort", str(tmp_path / "photos"), "--into", str(tmp_path / "sorted"), option]
    running = subprocess.Popen(
        [sys.executable, CLI, *command, "--target", scripted.target], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while running.poll() is None and not list(tmp_path.glob("sorted/*/*.jpg")):
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    everything = {Path(name).name: content for name, content in (tree(tmp_path)).items()}
    assert everything == photos, "each is in one of the two places, or in both"

    assert glimpse(*command, "--target", scripted.target).returncode == 0
    for undo_list in sorted(tmp_path.glob("sorted/undo-*"), reverse=True):
        assert glimpse("unsort", undo_list).returncode == 0
    assert tree(tmp_path / "photos") == photos
    assert tree(tmp_path / "sorted") == {}


def test_a_sorter_that_sorts_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with Sorter(str(tmp_path / "sorted"), Method.COPY, min_probability=0.0, dry_run=False) as sorter:
        pass
    assert sorter.undo_list == ""
    assert not (tmp_path / "sorted").exists()


def test_copies_moves_and_links_at_once_are_refused(glimpse: Glimpse, nowhere: str) -> None:
    for arguments in (["--link", "--move"], ["--symlink", "--link"], ["--min-probability", "2"]):
        ended = glimpse("sort", "a.jpg", "--into", "sorted", *arguments, "--target", nowhere)
        assert ended.returncode == 2


def test_the_folder_that_was_sorted_into_names_its_only_list(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, {"a.jpg": "cat"})
    sort = ("sort", "a.jpg", "--into", "sorted", "--target", scripted.target)
    assert glimpse(*sort).returncode == 0
    ended = glimpse("unsort", "sorted/")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (0, "1 undone, 0 left alone, 0 failed.")
    assert not (tmp_path / "sorted" / "cat").exists()

    assert glimpse(*sort).returncode == 0
    ended = glimpse("unsort", "sorted")
    assert ended.returncode == 2
    assert "has 2 undo lists, one for each run of `sort`" in (said := " ".join(ended.stderr.split()))
    assert "give --last" in said
    (tmp_path / "empty").mkdir()
    ended = glimpse("unsort", "empty")
    assert ended.returncode == 2
    assert "empty has no undo list of `sort`" in " ".join(ended.stderr.split())


def test_the_last_run_or_all_runs_are_undone_when_asked(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    """`--last` given twice undoes the last two runs, not one of them twice."""
    write(tmp_path, {"a.jpg": "cat", "b.jpg": "cat", "c.jpg": "cat"})
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert glimpse("sort", name, "--into", "sorted", "--target", scripted.target).returncode == 0
    sorted_into = tmp_path / "sorted" / "cat"
    assert glimpse("unsort", "sorted", "--last").stderr.endswith("\n1 undone, 0 left alone, 0 failed.\n")
    assert {path.name for path in sorted_into.iterdir()} == {"a.jpg", "b.jpg"}
    assert glimpse("unsort", "sorted", "--last").returncode == 0
    assert {path.name for path in sorted_into.iterdir()} == {"a.jpg"}
    ended = glimpse("unsort", "sorted", "--all")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (0, "1 undone, 0 left alone, 0 failed.")
    assert not sorted_into.exists()
    assert "All runs have been undone already" in glimpse("unsort", "sorted", "--all").stderr
    assert glimpse("unsort", "sorted", "--all", "--last").returncode == 2


def test_what_is_no_folder_is_refused_before_anything_is_sent(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, {"a.jpg": "cat"})
    ended = glimpse("sort", "a.jpg", "--into", "a.jpg", "--target", scripted.target)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Invalid value for --into: It takes the name of a folder" in ended.stderr
    assert not scripted.tokens


def test_a_file_where_a_label_s_folder_would_be_fails_that_photo_alone(
    scripted: ScriptedServer, glimpse: Glimpse, tmp_path: Path
) -> None:
    write(tmp_path, {"a.jpg": "cat", "b.jpg": "dog", "sorted/cat": "a file"})
    ended = glimpse("sort", "a.jpg", "b.jpg", "--into", "sorted", "--target", scripted.target)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        "a.jpg: NOT_SORTED: Not a directory.",
        "b.jpg -> sorted/dog/b.jpg (dog 75.0%)",
    ]
    assert tree(tmp_path / "sorted") == {"cat": "a file", "dog/b.jpg": "dog"}


def test_a_photo_that_is_not_there_is_named(scripted: ScriptedServer, glimpse: Glimpse) -> None:
    ended = glimpse("sort", "nowhere.jpg", "--into", "sorted", "--target", scripted.target)
    assert ended.stdout == "nowhere.jpg: FILE_NOT_FOUND: There is no file nowhere.jpg.\n"
