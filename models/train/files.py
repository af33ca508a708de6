"""The image files of a folder or a zip file: finding them, and reading their bytes.

The client finds images by the same rules (`client.images`): hidden files and folders are ignored, and so are those that
operating systems and network storage create.
"""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

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


class UnreadableError(Exception):
    """A file cannot be read; the message is the rest of a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file whose suffix is that of an image."""

    name: str  # relative to the folder or the zip file, with slashes
    read: Callable[[], bytes]  # raises UnreadableError


@contextmanager
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
        yield [ImageFile(f"{name}/{file}", partial(_read_file, path / file)) for file, name in samples.labelled(path)]
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
    for folder, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from (PurePosixPath(Path(folder, name).relative_to(root).as_posix()) for name in folders)


def _folders_in_zip(path: Path) -> Iterator[PurePosixPath]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = _zip_name(entry)
            folders = [*name.parents][:-1] + ([name] if entry.is_dir() else [])
            yield from (folder for folder in folders if not any(map(is_ignored, folder.parts)))


def _zip_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    # Some programs for Windows write its separator, against the format.
    return PurePosixPath(entry.filename.replace("\\", "/").lstrip("/"))


def is_ignored(folder: str) -> bool:
    """Whether a folder of this name is not searched for images."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _is_image(name: PurePosixPath, suffixes: Collection[str]) -> bool:
    *folders, file = name.parts
    # Archives made on a Mac carry a hidden "._" shadow of every file, with the same suffix.
    return name.suffix.lower() in suffixes and not file.startswith(".") and not any(map(is_ignored, folders))


def _in_folder(root: Path, suffixes: Collection[str]) -> Iterator[ImageFile]:
    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not is_ignored(name)]
        found += [Path(folder, name) for name in files]
    for path in sorted(found):
        name = PurePosixPath(path.relative_to(root).as_posix())
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
