"""Photos into folders by label: where each one goes, and the list by which it comes back."""

# ruff: noqa: PTH100, PTH106, PTH108, PTH112, PTH114, PTH118, PTH120, PTH121, PTH208  (paths stay strings)
from __future__ import annotations

import filecmp
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from glimpse.client.commands.output import open_alone
from glimpse.client.commands.placing import UNSURE, Method, folder_name, free_place, make_folder, put
from glimpse.client.results import ImageResult


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one photo."""

    source: str
    place: str | None  # where it went; None: it stayed
    why: str = ""  # it stayed, or went where it did; for people
    failed: bool = False


class Sorter:
    """Puts photos into the folders of their labels, or only says where they would go."""

    def __init__(self, into: str, method: Method, *, min_probability: float, dry_run: bool) -> None:
        """Prepare; the folder and its list are made with the first photo."""
        self._into = into
        self._method = method
        self._min_probability = min_probability
        self._dry_run = dry_run
        self._planned: dict[str, str] = {}  # of a dry run, which leaves no file where it would be
        self._undo: BinaryIO | None = None
        self.undo_list = ""  # its path, once there is one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._undo is not None:
            self._undo.close()

    def sort(self, source: str, result: ImageResult) -> Outcome:
        """Put one photo where it belongs."""
        if result.error is not None or not result.predictions:
            reason = "NO_CLASS" if result.error is None else result.error.reason or result.error.code.name
            why = reason if result.error is None else f"{reason}: {result.error.message}"
            return Outcome(source, None, why, failed=True)
        best = result.predictions[0]
        unsure = best.probability < self._min_probability or best.over_threshold is False
        name = UNSURE if unsure else folder_name(best.label)
        why = f"{best.label} {best.probability:.1%}"
        try:
            while True:
                place = free_place(source, os.path.join(self._into, name), self._planned)
                if place is None:
                    return Outcome(source, None, f"already there ({why})")
                try:
                    self._put(source, place)
                except FileExistsError:  # taken between the look and the deed
                    continue
                return Outcome(source, place, why)
        except OSError as error:
            return Outcome(source, None, f"NOT_SORTED: {error.strerror or error}.", failed=True)

    def _put(self, source: str, place: str) -> None:
        if self._dry_run:
            self._planned[place] = source
            return
        if self._undo is None:
            self._undo = self._start_list()
        # Before the deed: a run that is killed between the two has listed one that `unsort` finds undone.
        entry = {"how": self._method, "source": os.path.abspath(source), "place": os.path.abspath(place)}
        self._undo.write(json.dumps(entry).encode() + b"\n")
        put(source, place, self._method)

    def _start_list(self) -> BinaryIO:
        make_folder(self._into)
        self.undo_list = _place_of_list(self._into)
        return open_alone(Path(self.undo_list))


def unsort(undo_list: Path) -> Iterator[Outcome]:
    """Undo what a list says, the last first. What has changed since is left where it is.

    Raises:
        OSError: the list cannot be read.
        ValueError: it is no such list.
    """
    for place, source, method in reversed(_entries(undo_list)):
        try:
            yield _take_back(place, source, method)
        except OSError as error:
            yield Outcome(place, None, f"NOT_UNDONE: {error.strerror or error}.", failed=True)
    for folder in sorted({os.path.dirname(place) for place, _, _ in _entries(undo_list)}):
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def find_undo_lists(path: Path, *, every: bool = False, last: bool = False) -> list[Path]:
    """The lists that are meant, in the order in which they are to be undone: the newest first.

    Args:
        path: a list itself, or the folder that has lists.
        every: all lists of a folder.
        last: the newest list of a folder of which anything is still there.

    Raises:
        ValueError: a folder has no list, or has several without a word about which; or a file is none.
    """
    if not path.is_dir():
        return [path]
    lists = sorted(path.glob("undo-*.jsonl"), key=_age, reverse=True)
    if not lists:
        raise ValueError(f"{path} has no undo list of `sort`, a file named undo-*.jsonl.")
    if last:
        return [next((each for each in lists if has_any_left(each)), lists[0])]
    if len(lists) > 1 and not every:
        names = ", ".join(str(each) for each in lists)
        raise ValueError(
            f"{path} has {len(lists)} undo lists, one for each run of `sort`, the newest first: {names}. Name "
            "the one to undo, or give --last to undo the newest, or --all to undo them all."
        )
    return lists


def _age(undo_list: Path) -> tuple[str, int, str]:
    """By which lists are in the order of their runs: their second, and their number within it, which 1 lacks."""
    name = undo_list.stem
    return name[: len("undo-20261126-120000")], len(name), name


def has_any_left(undo_list: Path) -> bool:
    """Whether any photo of a list is still where it was put; else that run has been undone.

    Raises:
        OSError: the list cannot be read.
        ValueError: it is no such list.
    """
    return any(os.path.lexists(place) for place, _, _ in _entries(undo_list))


def _entries(undo_list: Path) -> list[tuple[str, str, Method]]:
    lines = undo_list.read_bytes().split(b"\n")[:-1]  # what follows the last line break is torn, and was not done
    try:
        entries = [json.loads(line) for line in lines]
        return [(str(each["place"]), str(each["source"]), Method(each["how"])) for each in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{undo_list} is not an undo list of `sort`: {error}") from error
    except RecursionError:
        raise ValueError(f"{undo_list} is not an undo list of `sort`: it is nested too deeply") from None


def _take_back(place: str, source: str, method: Method) -> Outcome:
    if not os.path.lexists(place):
        return Outcome(place, None, "is gone already")
    if method is Method.MOVE and not os.path.lexists(source):
        put(place, source, Method.MOVE)
        return Outcome(place, source)
    same = os.path.samefile(place, source) if os.path.islink(place) else filecmp.cmp(place, source, shallow=False)
    if not same:
        return Outcome(place, None, f"CHANGED: it is no longer the same as {source}.", failed=True)
    os.unlink(place)
    return Outcome(place, source)


def _place_of_list(folder: str) -> str:
    name = time.strftime("undo-%Y%m%d-%H%M%S")
    number = 1
    while os.path.lexists(place := os.path.join(folder, f"{name}{f'-{number}' if number > 1 else ''}.jsonl")):
        number += 1
    return place
