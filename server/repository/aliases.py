"""`aliases.toml`: names of versions of a model, which callers may select instead of a number: `stable = 3`.

It lies in the repository, so that it outlives the server, and so that all servers with this repository agree on it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from glimpse.models.files import bounded_files
from glimpse.server.registry import LATEST

FILE = "aliases.toml"
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def check(alias: str) -> None:
    """Refuse what cannot be an alias of a version.

    Raises:
        ValueError: it cannot.
    """
    if alias == LATEST:
        raise ValueError(f"{LATEST} always is the newest version that is ready, and cannot be set.")
    if not _ALIAS.fullmatch(alias):
        raise ValueError(
            "An alias is 1 to 63 small letters, digits, '_' and '-', and begins with a letter, such as stable or "
            f"canary. Received: {alias!r}."
        )


def read(folder: Path) -> dict[str, str]:
    """The aliases of the model in a folder: alias -> version; none where there is no such file.

    Raises:
        ValueError: the file cannot be used; the message says why.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        found = bounded_files.parse_toml(bounded_files.read_text(path))
        for alias, version in found.items():
            check(alias)
            if type(version) is not int or version < 1:
                raise ValueError(f"{alias} must be the number of a version. Received: {version!r}")  # noqa: TRY301 - one place says where
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {str(error).rstrip('.')}.") from error
    return {alias: str(version) for alias, version in found.items()}


def write(folder: Path, aliases: Mapping[str, str]) -> None:
    """Keep the aliases of the model in a folder, in the place of those that are there.

    Raises:
        OSError: the folder cannot be written.
    """
    put(folder / FILE, "".join(f"{alias} = {version}\n" for alias, version in sorted(aliases.items())))


def put(path: Path, text: str) -> None:
    """Write a file of a repository so that whoever reads it finds all of it, or what was there before.

    Raises:
        OSError: its folder cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
