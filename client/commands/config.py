"""The file with a person's own defaults for the options that find the server and get in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from glimpse.client import texts
from glimpse.client.suggestions import did_you_mean

VARIABLE = "GLIMPSE_CLIENT_CONFIG"

_FILES = frozenset({"tls_ca", "tls_certificate", "tls_key", "token_file"})
# The token has two variables that are read where it is needed, so that they are no defaults of the option.
TOKEN_VARIABLES = ("GLIMPSE_TOKEN", "GLIMPSE_TOKEN_FILE")


def defaults(kinds: dict[str, type]) -> dict[str, Any]:
    """The options in the file, by their names; nothing where there is no file.

    The file is TOML, one key an option: the one that GLIMPSE_CLIENT_CONFIG names, or `glimpse/config.toml` in
    XDG_CONFIG_HOME, which is `~/.config` where it is not set. Files that it names are looked for beside it.

    Args:
        kinds: the options that there are, each with the type of its value.

    Raises:
        OSError: the file cannot be read, or the one that the variable names is missing.
        ValueError: it is no TOML, or says something that is no such option.
    """
    path = _path()
    if path is None:
        return {}
    import tomllib

    try:
        values = tomllib.loads(texts.decode(path.read_bytes()))
    except ValueError as error:  # of TOML or of UTF-8
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply.") from None
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{path} has {name!r}, which is not an option.{did_you_mean(name, kinds)}")
        if not _fits(value, kinds[name]):
            raise ValueError(f"{path}: {name} has to be {_SAID[kinds[name]]}. Received: {value!r}.")
        if name in _FILES:
            values[name] = str(path.parent / Path(value).expanduser())
    if any(os.environ.get(variable) for variable in TOKEN_VARIABLES):
        values.pop("token_file", None)
    return values


_SAID: dict[type, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def _fits(value: object, kind: type) -> bool:
    if kind in {int, float}:
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _path() -> Path | None:
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    # The standard wants a path that is not absolute to be ignored.
    home = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(home) if home.startswith("/") else Path("~/.config").expanduser()
    path = folder / "glimpse" / "config.toml"
    return path if path.exists() else None
