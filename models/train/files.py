"""The image files of a folder or a zip: which of them count, and what is in them.

Which count is the client's rule, too (`client.images`): neither hidden files and folders nor those that systems keep
for themselves. Where the client would ask a server, nothing is decoded here.
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

MAX_BYTES = 256 * 1024 * 1024  # of one file: a zip of a few kilobytes may hold one that fills the memory
# Of macOS' archives, of network storage, of Windows: copies, thumbnails and what was thrown away. In lower case.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    )
)

_DEFLATE64 = 9  # Windows Explorer takes it for large folders


class UnreadableError(Exception):
    """One file cannot be read; the message goes on where the file's name ends."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that is an image by its name."""

    name: str  # below the folder or in the zip, with slashes
    read: Callable[[], bytes]  # raises UnreadableError


@contextmanager
def opened(path: Path, suffixes: Collection[str]) -> Iterator[list[ImageFile]]:
    """The image files below a folder or in a zip, in a fixed order; they can be read until the context ends.

    Args:
        path: folder or zip file.
        suffixes: of images, in lower case, with the dot.

    Raises:
        OSError: it is not there, or a folder cannot be read.
        ValueError: it is neither, or a name in the zip leads out of it.
    """
    if path.is_dir():
        yield list(_in_folder(path, suffixes))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there. Give a folder or a zip file.") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is neither a folder nor a whole zip file: {error}.") from error
    with archive:
        yield list(_in_zip(archive, path, suffixes))


def without_images(path: Path, images: Iterable[ImageFile]) -> list[str]:
    """Folders below a folder or in a zip in which there is no image, though they look like classes.

    Args:
        path: folder or zip file.
        images: what `opened` found there.

    Returns:
        Their names, sorted; of a folder within such a folder nothing is said.
    """
    filled = {folder for image in images for folder in PurePosixPath(image.name).parents}
    folders = set(_folders_below(path) if path.is_dir() else _folders_in_zip(path))
    return sorted(str(folder) for folder in folders - filled if folder.parent in filled)


def _folders_below(root: Path) -> Iterator[PurePosixPath]:
    for folder, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not is_left_out(name)]
        yield from (PurePosixPath(Path(folder, name).relative_to(root).as_posix()) for name in folders)


def _folders_in_zip(path: Path) -> Iterator[PurePosixPath]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = _zip_name(entry)
            folders = [*name.parents][:-1] + ([name] if entry.is_dir() else [])
            yield from (folder for folder in folders if not any(map(is_left_out, folder.parts)))


def _zip_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    # Some programs for Windows write its separator, against the format.
    return PurePosixPath(entry.filename.replace("\\", "/").lstrip("/"))


def is_left_out(folder: str) -> bool:
    """Whether a folder of this name is not searched."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _counts(name: PurePosixPath, suffixes: Collection[str]) -> bool:
    *folders, file = name.parts
    # Archives made on a Mac carry a hidden "._" shadow of every file, with the same suffix.
    return name.suffix.lower() in suffixes and not file.startswith(".") and not any(map(is_left_out, folders))


def _in_folder(root: Path, suffixes: Collection[str]) -> Iterator[ImageFile]:
    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not is_left_out(name)]
        found += [Path(folder, name) for name in files]
    for path in sorted(found):
        name = PurePosixPath(path.relative_to(root).as_posix())
        if _counts(name, suffixes) and _is_readable_kind(path):
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
            raise ValueError(f"{path} holds the name {entry.filename!r}, which leads out of it. Make the zip anew.")
        if not entry.is_dir() and name.parts and _counts(name, suffixes):
            yield ImageFile(str(name), partial(_read_entry, archive, entry))


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.flag_bits & 1:
        raise UnreadableError("is encrypted. Make the zip anew without a password, or give the folder itself")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnreadableError("is a link, which leads nowhere in a zip")
    try:
        with archive.open(entry) as file:
            return _within_limit(file.read(MAX_BYTES + 1))
    except NotImplementedError as error:
        method = "Deflate64" if entry.compress_type == _DEFLATE64 else f"method {entry.compress_type}"
        raise UnreadableError(
            f"is packed in a way that Python cannot read: {method}. Make the zip anew with plain Deflate, or give the "
            "folder itself"
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UnreadableError(f"is damaged in the zip: {error}") from error


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"has more than {MAX_BYTES:,} bytes, which is no picture to train on")
    return data
