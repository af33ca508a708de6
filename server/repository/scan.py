"""What lies in a repository: models, their versions, and what is wrong with them. Nothing is loaded here.

    NAME/               the model's name: 1 to 200 letters, digits, '.', '_' and '-'
        model.toml      how it is served; optional
        aliases.toml    its aliases: stable = 3; optional
        VERSION/        a positive integer: the folder of a bundle, or a weights file with labels and recipe

Names that begin with a dot are passed over, so that a version may be copied under such a name and then renamed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from glimpse.models import bundle as bundles
from glimpse.models.files import digests
from glimpse.models.sources import LABELS, RECIPES
from glimpse.server.repository import aliases, model_file
from glimpse.server.repository.model_file import ListedModel, ModelFile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# What programs call a file that they have not copied to its end.
_PARTS = (".part", ".partial", ".filepart", ".crdownload", ".tmp")
_BESIDE = frozenset({*LABELS, *RECIPES, model_file.FILE, aliases.FILE})
_NOT_WEIGHTS = (*digests.EXTERNAL_DATA_SUFFIXES, ".md", ".txt", ".json", ".toml", ".csv", ".png", ".jpg", ".sha256")
_MOST_FILES = 10_000  # of one version; a folder with more is no model

# Of each file: path within the version, inode, size, and when it was last modified and changed, in nanoseconds.
Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """One version of a model, as it lies there."""

    version: str
    path: Path | None  # its folder; None: the list of models names its weights
    stamp: Stamp = ()
    problem: str = ""  # why it cannot be loaded, whatever is in it
    incomplete: str = ""  # why it cannot be complete yet

    @property
    def changed(self) -> float:
        """When anything of it was last changed, in seconds since 1970."""
        return max((max(each[3], each[4]) for each in self.stamp), default=0) / 1e9


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model with all of its versions, the oldest first."""

    name: str
    versions: tuple[FoundVersion, ...]
    file: ModelFile = field(default_factory=ModelFile)
    aliases: dict[str, str] = field(default_factory=dict)
    problem: str = ""  # why none of its versions can be loaded
    folder: Path | None = None  # with the folders of its versions
    stray: bool = False  # a folder that nobody can have meant as a model, such as lost+found


def scan(root: Path) -> dict[str, FoundModel]:
    """All models of a repository, by name.

    Args:
        root: its folder, or a TOML file of models.

    Raises:
        OSError: it cannot be read, or has vanished.
        ValueError: the TOML file is not TOML.
    """
    if root.is_file():
        listed = model_file.read_list(root)
        return {name: _listed(name, each) for name, each in listed.items()}
    inside = root.resolve()
    found = {}
    for entry in _entries(root):
        if entry.is_dir():
            try:
                found[entry.name] = _model(Path(entry.path), inside)
            except OSError as error:
                found[entry.name] = FoundModel(
                    entry.name, (), problem=f"{entry.path} cannot be read: {error.strerror}."
                )
    return found


def weights_in(folder: Path) -> Path:
    """What is to be loaded of the folder of a version: the folder of a bundle, or a weights file.

    Raises:
        ValueError: it cannot be told.
    """
    if (folder / bundles.DESCRIPTION).is_file() or (folder / "saved_model.pb").is_file():
        return folder
    names = sorted(each.name for each in _entries(folder) if not each.name.startswith("."))
    inner = [folder / name for name in names if (folder / name / bundles.DESCRIPTION).is_file()]
    if len(inner) == 1:
        return inner[0]
    graphs = {Path(name).stem for name in names if name.endswith(".xml")}  # OpenVINO's, with its weights in .bin
    files = [
        name
        for name in names
        if (folder / name).is_file()
        and name not in _BESIDE
        and not name.lower().endswith(_NOT_WEIGHTS)
        and not (name.endswith(".bin") and Path(name).stem in graphs)
    ]
    if len(files) == 1:
        return folder / files[0]
    what = f"{len(files)} files that could be weights: {', '.join(files[:5])}" if files else "no weights file"
    raise ValueError(
        f"{folder} has {what}. It must hold a bundle ({bundles.DESCRIPTION}), or one weights file with {LABELS[0]} and "
        f"{RECIPES[0]} beside it."
    )


def _listed(name: str, listed: ListedModel | str) -> FoundModel:
    if isinstance(listed, str):
        return FoundModel(name, (), problem=listed)
    if not _NAME.fullmatch(name) or ".." in name:
        return FoundModel(name, (), problem=_no_name(name))
    if listed.path is not None:
        try:
            found = _model(listed.path, listed.path.resolve(), name)
        except OSError as error:
            return FoundModel(name, (), file=listed, problem=f"{listed.path} cannot be read: {error.strerror}.")
        stamped = [replace(each, stamp=_said(listed) + each.stamp) if each.stamp else each for each in found.versions]
        return FoundModel(name, tuple(stamped), listed, found.aliases, found.problem, listed.path)
    version = FoundVersion(str(listed.version), None, _stamp_of_list(listed))
    return FoundModel(name, (version,), listed)


def _said(file: ModelFile) -> Stamp:
    """What the settings of a model say of how it is loaded, as part of a stamp: after a change it is loaded again."""
    return ((file.model_dump_json(exclude={"keep", "required", "default", "resident", "sleep_after"}), 0, 0, 0, 0),)


def _stamp_of_list(listed: ListedModel) -> Stamp:
    """What says that the weights of a list have become others: what the table says, and the files that it names."""
    said = _said(listed)
    paths = [Path(str(each)).expanduser() for each in (listed.weights, listed.labels, listed.recipe) if each]
    return (*said, *(each for path in paths if path.exists() for each in _stamp(path)))


def _model(folder: Path, inside: Path, name: str = "") -> FoundModel:
    name = name or folder.name
    if not _NAME.fullmatch(name) or ".." in name:
        return FoundModel(name, (), problem=_no_name(name), stray=True)
    if not folder.resolve().is_relative_to(inside):
        return FoundModel(name, (), problem=f"{folder} leads out of the repository. Copy the model into it.")
    names = sorted(each.name for each in _entries(folder) if each.is_dir())
    versions = sorted(
        (_version(folder / each, inside, names) for each in names), key=lambda each: (len(each.version), each.version)
    )
    problem, file, chosen = "", ModelFile(), dict[str, str]()
    try:
        file = model_file.read(folder)
        chosen = aliases.read(folder)
    except ValueError as error:
        problem = str(error)
    stamped = [replace(each, stamp=_said(file) + each.stamp) if each.stamp else each for each in versions]
    return FoundModel(name, tuple(stamped), file, chosen, problem, folder)


def _no_name(name: str) -> str:
    return (
        f"{name!r} cannot be the name of a model: a name is 1 to 200 letters, digits, '.', '_' and '-', begins with a "
        "letter or a digit, and has no two dots in a row."
    )


def _version(folder: Path, inside: Path, names: list[str]) -> FoundVersion:
    name = folder.name
    if not _VERSION.fullmatch(name):
        number = name.lstrip("0") if name.isdecimal() else ""
        if number in names:
            why = f"{name} has the same number as {number}, which is another version. Remove one of the two."
        elif number:
            why = f"{name} must be written as {number}, without zeros in front."
        else:
            why = f"{name!r} is not a version: a version is a positive integer, such as 1."
        return FoundVersion(name, folder, problem=why)
    if not folder.resolve().is_relative_to(inside):
        return FoundVersion(name, folder, problem=f"{folder} leads out of the repository. Copy the version into it.")
    try:
        _check_links(folder, inside)
        stamp = _stamp(folder)
    except ValueError as error:
        return FoundVersion(name, folder, problem=f"{folder} cannot be a version of a model: {error}.")
    except OSError as error:
        return FoundVersion(name, folder, incomplete=f"It cannot be read: {error}.")
    if not stamp:
        return FoundVersion(name, folder, incomplete="Its folder is empty.")
    parts = [path for path, *_ in stamp if path.endswith(_PARTS) or _of_rsync(path)]
    waits = f"{parts[0]} is still being copied." if parts else ""
    return FoundVersion(name, folder, stamp, incomplete=waits)


def _of_rsync(path: str) -> bool:
    """Whether rsync writes to this file: `.weights.safetensors.Xy12Ab`."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.count(".") > 1 and len(name.rpartition(".")[2]) == 6


def _stamp(path: Path) -> Stamp:
    """What tells the files of a version from those that were there before.

    Raises:
        OSError: one of them cannot be looked at, perhaps because it has just been renamed.
        ValueError: there are too many.
    """
    found = []
    for file in _files(path):
        status = file.stat()
        name = file.name if file == path else file.relative_to(path).as_posix()
        found.append((name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(sorted(found))


def _check_links(folder: Path, inside: Path) -> None:
    """Refuse a version in which a link, to a file or a folder, leads out of the repository.

    What is loaded is what is looked at here, so that whoever may write a version cannot have the server read, or name
    in its errors, files of others.

    Raises:
        OSError: one of its folders cannot be read.
        ValueError: there is such a link, or too much in it.
    """
    for path in _walk(folder):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ValueError(f"{path} leads out of the repository. Copy what it leads to in its place")


def _files(path: Path) -> Iterator[Path]:
    """The file, or the files in the folder."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (each for each in _walk(path) if not each.is_dir())


def _walk(top: Path) -> Iterator[Path]:
    """All that is in a folder, links not followed; not more of it is looked at than a version may have.

    Raises:
        OSError: a folder cannot be read.
        ValueError: there is more.
    """
    number, folders = 0, [top]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                number += 1
                if number > _MOST_FILES:
                    raise ValueError(f"it has more than {_MOST_FILES} files and folders")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for hidden names, by name."""
    with os.scandir(folder) as entries:
        return sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
