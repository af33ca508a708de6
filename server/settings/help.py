"""What `python -m glimpse.server --help` prints: every setting, in groups, the common ones first."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from glimpse.server.processes import startup
from glimpse.server.settings.groups import GROUPS, VARIABLES
from glimpse.server.settings.kinds import MIB

_WIDEST = 100  # columns; longer lines are hard to read
_LEFT = 26  # columns of the flags
_UNITS = {"bytes": "BYTES", "pixels": "PIXELS", "seconds": "SECONDS", "port": "PORT", "aliases": "LIST"}

_ABOUT = """\
usage: python -m glimpse.server [prepare] [--SETTING VALUE ...]

Serve an image-classification model over gRPC.

`prepare` downloads and converts the model as a start with the same settings would, and ends: use it when an image is
built, or in an init container.

A setting is a flag, an environment variable or a line of a TOML file: --max-batch-size 8, GLIMPSE_MAX_BATCH_SIZE=8 or
max_batch_size = 8. A flag takes precedence over a variable, and a variable over the file.
"""

_EXAMPLES = """\
Examples:
  python -m glimpse.server
  python -m glimpse.server --model resnet50 --weights imagenet --port 6000
  python -m glimpse.server --weights runs/mine/bundle --tls-certificate tls.crt --tls-key tls.key
  python -m glimpse.server prepare --model resnet50 --weights imagenet
"""


def wanted(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for help."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def text(settings: type[BaseSettings]) -> str:
    """The help, as wide as the terminal and no wider than is easy to read."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    parts = [f"{textwrap.fill(each, width, break_on_hyphens=False)}\n" for each in _ABOUT.split("\n\n")]
    parts.append(_EXAMPLES)
    for title, names in GROUPS.items():
        rows = [_row(name, settings.model_fields[name]) for name in names]
        if title == next(iter(GROUPS)):
            rows += [("-h, --help", "Show this help and exit."), ("--version", "Show the version and exit.")]
        parts.append(_section(title, rows, width))
    parts.append(_section("Environment variables without a flag", VARIABLES.items(), width))
    codes = ((str(code), meaning) for code, meaning in startup.exit_codes().items())
    parts.append(_section("Exit codes", codes, width, left=7))
    return "\n".join(parts)


def _section(title: str, rows: Iterable[tuple[str, str]], width: int, left: int = _LEFT) -> str:
    return f"{title}:\n" + "".join(f"{line}\n" for line in _lines(rows, width, left))


def _lines(rows: Iterable[tuple[str, str]], width: int, left: int) -> Iterator[str]:
    margin = " " * left
    for name, meaning in rows:
        first = f"  {name}"
        if len(first) + 2 > left:
            yield first
            first = margin
        lines = textwrap.wrap(meaning, max(width - left, 20), break_on_hyphens=False)
        yield first.ljust(left) + lines[0]
        yield from (margin + line for line in lines[1:])


def _row(name: str, field: FieldInfo) -> tuple[str, str]:
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        flag += f", --no-{name.replace('_', '-')}"
    else:
        flag += f" {_metavar(name, field)}"
    default = _default(field.default)
    return flag, f"{field.description} (default: {default})" if default else str(field.description)


def _metavar(name: str, field: FieldInfo) -> str:
    """What stands for the value: its choices, its unit or its kind."""
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind is not type(None)]
    if get_origin(kinds[0]) is Literal:
        return "{" + ",".join(map(str, get_args(kinds[0]))) + "}"
    if Path in kinds:
        return "PATH"
    word = next((unit for word in name.split("_") if (unit := _UNITS.get(word))), "")
    return word or (
        {int: "N", float: "NUMBER", dict: "JSON", frozenset: "LIST", tuple: "LIST"}.get(
            get_origin(kinds[0]) or kinds[0]
        )
        or name.upper()
    )


def _default(value: object) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case int() if value >= MIB and value % MIB == 0:
            return f"{value}, which is {value // MIB} MiB"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case str():
            return value
        case _:
            return ""
