"""Small files that somebody else may have made: descriptions, labels, recipes, recorded answers, pictures.

Only plain files are read, so that a pipe does not wait and a device does not go on for ever, and only up to a limit.
What a bundle names lies in its own folder: a link is followed as long as it stays within, which is how Kubernetes
mounts a ConfigMap (each file is a link into ``..data``, which is a link to a folder beside it).

JSON and TOML may be nested too deeply for their readers, have numbers that no float holds, or the same name twice, of
which readers take different ones. Each of these is a ValueError of one sentence.
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

from glimpse.models import opened as files
from glimpse.models import texts

TEXT_BYTES = 1 << 16  # of a description or a recipe: dozens of times what they have
LINE = 1_000  # characters of a line of TOML
DEPTH = 32  # of lists and tables in one another; a bundle's description has three
DIGITS = 30  # of a whole number: more than 64 bits have


def read(path: Path, limit: int) -> bytes:
    """The bytes of a plain file.

    Args:
        path: links are followed; see `inside` for those of a folder.
        limit: bytes that are read at the most.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no plain file, or has more bytes.
    """
    with opened(path, holes=True) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes, which is more than such a file may have")
    return data


@contextmanager
def opened(path: Path, *, holes: bool = False) -> Iterator[BufferedReader]:
    """A plain file, to be read; for those whose size is bounded elsewhere. See `models.opened.plain`.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no plain file.
    """
    try:
        file = files.plain(path, holes=holes)
    except files.NotAFileError as error:
        raise ValueError(f"it {error.reason}") from error
    with file:
        yield file


def inside(folder: Path, name: object) -> Path:
    """Where the file or folder called `name` really lies, which is within `folder`: every link on the way is followed.

    Args:
        folder: may itself be a link; the operator has named it.
        name: from a file; a plain name, without any separator of Unix or Windows.

    Raises:
        ValueError: it is no plain name, or a link leads out of the folder.
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
    """The value of a JSON text (RFC 8259).

    Raises:
        ValueError: it is none, has a name twice in one object, a number that is not finite or has too many digits, or
            is nested too deeply.
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
    """The tables of a TOML text.

    Raises:
        ValueError: it is none, has a line that is too long, a number with too many digits, or is nested too deeply.
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
    """The text of a plain file, see `read` and `models.texts.decode`.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no plain file, has too many bytes, or is no text.
    """
    return texts.decode(read(path, limit))


def shown(value: object) -> str:
    """A value from a file in an error: on one line, and short, whatever it is."""
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
                raise ValueError(f"{shown(name)} is there twice")
            seen.add(name)
    return values


def _constant(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS + 1:
        raise ValueError(f"a whole number has more than {DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{shown(digits)} is more than a float holds")
    return value
