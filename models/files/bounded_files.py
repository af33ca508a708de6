"""Reading small files from untrusted sources: descriptions, labels, recipes, recorded answers, pictures.

Only regular files are read, because a pipe would wait and a device might never end, and only up to a limit of size.
Files of a bundle must lie in its folder; a symbolic link is followed if it stays within, because Kubernetes mounts a
ConfigMap like that (each file is a link into ``..data``, which is a link to a folder beside it).

JSON and TOML that is nested too deeply, has numbers that do not fit a float, or has a key twice in an object (of which
parsers take different ones) is refused with a ValueError.
"""

from __future__ import annotations

import json
import math
import reprlib
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from glimpse.models.files import regular_files, texts

TEXT_BYTES = 1 << 16  # of a recipe: dozens of times what it has
# Of a bundle's description, or of a calibration beside weights: one of a multi-label model has three numbers for each
# label, some 50 bytes, and a score of novelty that looks into the network takes up to 63 KB.
DESCRIPTION_BYTES = 4 << 20
LINE = 1_000  # characters of a line of TOML
DEPTH = 32  # of lists and tables in one another; a bundle's description has three
DIGITS = 30  # of a whole number: more than 64 bits have


def read(path: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: links are followed; see `inside` for those of a folder.
        limit: the largest size that is read, in bytes.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is not a regular file, or is larger.
    """
    with open_file(path, holes=True) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes, the largest size of such a file")
    return data


@contextmanager
def open_file(path: Path, *, holes: bool = False) -> Iterator[BufferedReader]:
    """Open a regular file for reading, without a limit of size. See `models.files.regular_files.open_file`.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file.
    """
    try:
        file = regular_files.open_file(path, holes=holes)
    except regular_files.NotARegularFileError as error:
        raise ValueError(f"it {error.reason}") from error
    with file:
        yield file


def inside(folder: Path, name: object) -> Path:
    """The path of an entry of a folder with all symbolic links resolved; it must lie within the folder.

    Args:
        folder: may itself be a symbolic link, because the operator has named it.
        name: from a file; a name without path separators of Unix or Windows.

    Raises:
        ValueError: it is not such a name, or a link leads out of the folder.
    """
    if not is_plain_name(name):
        raise ValueError(f"a file of a bundle must lie in its folder. Received: {shown(name)}")
    path = folder / str(name)
    try:
        real = path.resolve()
        contained = real.is_relative_to(folder.resolve()) and real != folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise ValueError(f"{path} cannot be followed: {error}") from error
    if not contained:
        raise ValueError(
            f"a file of a bundle must lie in its folder. Received: {shown(name)}, a link to {shown(str(real))}. Copy "
            "the folder with the files themselves in place of links, for example by cp -rL"
        )
    return real


def is_plain_name(name: object) -> bool:
    """Whether a value can only be the name of an entry of a folder, on any system."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name not in {".", ".."}
        and name.isprintable()
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
    )


def parse_json(text: str) -> Any:
    """Parse JSON (RFC 8259).

    Raises:
        ValueError: the text is not valid JSON, has a key twice in one object or a number that is not finite or has too
            many digits, or is nested too deeply.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_whole, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _refuse_depth(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: the text is not valid TOML, has a line that is too long or a number with too many digits, or is
            nested too deeply.
    """
    # The reader takes time and memory with the square of the parts of a dotted key, which stands on one line.
    if max(map(len, text.splitlines()), default=0) > LINE:
        raise ValueError(f"a line has more than {LINE:,} characters")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _refuse_depth(values)
    return values


def read_text(path: Path, limit: int = TEXT_BYTES) -> str:
    """The text of a regular file, see `read` and `models.files.texts.decode`.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is not a regular file, is too large, or is not text in UTF-8 or UTF-16.
    """
    return texts.decode(read(path, limit))


def shown(value: object) -> str:
    """A value from a file for an error message: on one line, and shortened."""
    return _short.repr(value)


_TOO_DEEP = f"it is nested more than {DEPTH} levels deep"
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def _refuse_depth(value: object) -> None:
    """Refuse what later code would walk in calls of itself, and whole numbers that no float holds."""
    level = [value]
    for _ in range(DEPTH + 1):
        if not level:
            return
        following: list[object] = []
        for each in level:
            if isinstance(each, dict):
                following += each.values()
            elif isinstance(each, list):
                following += each
            elif isinstance(each, int) and abs(each) >= 10**DIGITS:
                raise ValueError(f"a whole number has more than {DIGITS} digits")
        level = following
    raise ValueError(_TOO_DEEP)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {shown(name)} appears twice in an object")
            seen.add(name)
    return values


def _constant(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS + 1:
        raise ValueError(f"a whole number has more than {DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{shown(digits)} is too large for a float")
    return value
