"""The image files of a folder or a zip file: finding them, and reading their bytes.

The client finds images by the same rules (`client.commands.find_images`): hidden files and folders are ignored, and so
are those that operating systems and network storage create. Only here are links to folders followed, because a class
may lie elsewhere.

Names are in Unicode's composed form (NFC), whichever their file system has: a class is the same one in a folder of a
Mac, in its zip file and in a table.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from glimpse.models.train import samples

MAX_BYTES = (
    256 * 1024 * 1024
)  # of one image file; a zip file of a few kilobytes may decompress to more than the memory holds
# Created by macOS' archiver, network storage and Windows: copies, thumbnails, recycle bins. In lower case.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    )
)

_DEFLATE64 = 9  # Windows Explorer takes it for large folders
_UTF_8 = 0x800  # flag of an entry of a zip: its name is in UTF-8


class UnreadableError(Exception):
    """A file cannot be read; the message is the rest of a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file whose suffix is that of an image."""

    name: str  # relative to the folder or the zip file, with slashes
    read: Callable[[], bytes]  # raises UnreadableError


@contextlib.contextmanager
def open_images(path: Path, suffixes: Collection[str]) -> Iterator[list[ImageFile]]:
    """The image files below a folder or in a zip, in a fixed order; they can be read until the context ends.

    Args:
        path: folder or zip file. Of a folder of samples (`models.train.samples`), those that have a true class.
        suffixes: of images, in lower case, with the dot.

    Raises:
        OSError: it does not exist, or a folder cannot be read.
        ValueError: it is neither a folder nor a zip file, or a name in the zip file contains "..".
    """
    if samples.is_samples(path):
        yield [
            ImageFile(composed(f"{name}/{file}"), partial(_read_file, path / file))
            for file, name in samples.labelled(path)
        ]
        return
    if path.is_dir():
        yield list(_in_folder(path, suffixes))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist. Give a folder or a zip file.") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is neither a folder nor a valid zip file: {error}.") from error
    with archive:
        yield list(_in_zip(archive, path, suffixes))


def without_images(path: Path, images: Iterable[ImageFile]) -> list[str]:
    """Folders that look like classes but contain no image.

    Args:
        path: folder or zip file.
        images: what `open_images` found there.

    Returns:
        Their names, sorted, without the folders within them.
    """
    filled = {folder for image in images for folder in PurePosixPath(image.name).parents}
    folders = set(_folders_below(path) if path.is_dir() else _folders_in_zip(path))
    return sorted(str(folder) for folder in folders - filled if folder.parent in filled)


def _folders_below(root: Path) -> Iterator[PurePosixPath]:
    for folder, folders, _ in _walk(root, lambda _: None):
        yield from (_name_of(Path(folder, name), root) for name in folders)


def _walk(root: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """What `os.walk` gives, without the folders that are ignored, and with those that links lead to.

    A link to a folder that is found without it is not followed, so that no image is found twice, and no folder is
    searched within itself, which would have no end.
    """
    whole = os.path.realpath(root)
    ways: dict[str, tuple[str, ...]] = {str(root): (whole,)}
    for folder, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        way, kept = ways.pop(folder), []
        for name in folders:
            path = os.path.join(folder, name)  # noqa: PTH118 - as `os.walk` makes it
            link = os.path.islink(path)  # noqa: PTH114 - the same
            real = os.path.realpath(path) if link else os.path.join(way[-1], name)  # noqa: PTH118 - the same
            if not (is_ignored(name) or real in way or (link and _is_found_below(real, whole))):
                kept.append(name)
                ways[path] = (*way, real)
        folders[:] = kept
        yield folder, folders, names


def _is_found_below(folder: str, root: str) -> bool:
    """Whether a folder is searched as one of those below `root`; both without links."""
    try:
        parts = PurePath(folder).relative_to(root).parts
    except ValueError:
        return False
    return not any(map(is_ignored, parts))


def _folders_in_zip(path: Path) -> Iterator[PurePosixPath]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = _zip_name(entry)
            folders = [*name.parents][:-1] + ([name] if entry.is_dir() else [])
            yield from (folder for folder in folders if not any(map(is_ignored, folder.parts)))


def _zip_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    name = entry.filename
    if not entry.flag_bits & _UTF_8:
        # macOS' archiver writes UTF-8 and does not say so; Python takes what is not said to be UTF-8 for the alphabet
        # of DOS. A name that was meant in that one is hardly ever valid UTF-8, too.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    # Some programs for Windows write its separator, against the format.
    return PurePosixPath(composed(name.replace("\\", "/").lstrip("/")))


def composed(name: str) -> str:
    """A name in Unicode's composed form: "é" as one character, where file systems of Macs have "e" and an accent."""
    return unicodedata.normalize("NFC", name)


def _name_of(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath(composed(path.relative_to(root).as_posix()))


def is_ignored(folder: str) -> bool:
    """Whether a folder of this name is not searched for images."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _is_image(name: PurePosixPath, suffixes: Collection[str]) -> bool:
    *folders, file = name.parts
    # Archives made on a Mac carry a hidden "._" shadow of every file, with the same suffix.
    return name.suffix.lower() in suffixes and not file.startswith(".") and not any(map(is_ignored, folders))


def _in_folder(root: Path, suffixes: Collection[str]) -> Iterator[ImageFile]:
    found: list[Path] = []
    for folder, _, files in _walk(root, _raise):
        found += [Path(folder, name) for name in files]
    for path in sorted(found):
        name = _name_of(path, root)
        if _is_image(name, suffixes) and _is_readable_kind(path):
            yield ImageFile(str(name), partial(_read_file, path))


def _raise(error: OSError) -> None:
    raise error


def _is_readable_kind(path: Path) -> bool:
    """Whether reading it comes to an end: a pipe would wait for a writer."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # a broken link, for example; reading it says what is wrong


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _within_limit(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror or error}") from error


def _in_zip(archive: zipfile.ZipFile, path: Path, suffixes: Collection[str]) -> Iterator[ImageFile]:
    for entry in sorted(archive.infolist(), key=lambda each: each.filename):
        name = _zip_name(entry)
        if ".." in name.parts:
            raise ValueError(
                f"{path} contains the name {entry.filename!r}, which points outside of it. Create the zip file again."
            )
        if not entry.is_dir() and name.parts and _is_image(name, suffixes):
            yield ImageFile(str(name), partial(_read_entry, archive, entry))


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.flag_bits & 1:
        raise UnreadableError("is encrypted. Create the zip file again without a password, or give the folder itself")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnreadableError("is a symbolic link, which cannot be followed in a zip file")
    try:
        with archive.open(entry) as file:
            return _within_limit(file.read(MAX_BYTES + 1))
    except NotImplementedError as error:
        method = "Deflate64" if entry.compress_type == _DEFLATE64 else f"method {entry.compress_type}"
        raise UnreadableError(
            f"is compressed with a method that Python does not support: {method}. Create the zip file again with "
            "Deflate, or give the folder itself"
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UnreadableError(f"is damaged in the zip file: {error}") from error


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"has more than {MAX_BYTES:,} bytes, the largest size of an image file")
    return data
