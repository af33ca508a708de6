"""The command lines, from the programs themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from docs.generate.markdown import code, deeper, table
from glimpse.client.commands.exits import TABLE

ROOT = Path(__file__).parents[2]
_TARGET = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)
_SUBCOMMAND = re.compile(r"^    ([a-z]+)  +\S", re.MULTILINE)

# What typer adds to the name of an argument, and the examples at the end of a command's help.
_TYPE = re.compile(r"^(\* `[A-Z|]+) <[^>]*>", re.MULTILINE)
_EXAMPLES = re.compile(r"^Examples:\n((?:  .+\n?)+)", re.MULTILINE)

_ABOUT = """\
# Command line

In a clone, `glimpse` is `client/cli.py`, or `.venv/bin/glimpse` after `make client` or `make serve`, and `python` is
`.venv/bin/python`. The flags of the server, `python -m glimpse.server` or `glimpse-server`, are on the page
[settings](settings.md).
"""


def page() -> str:
    """The client's commands, the other programs, and what make does."""
    client = _run("typer", "glimpse.client.commands.app", "utils", "docs", "--name", "glimpse")
    codes = TABLE.replace("\b", "").strip()
    client = client.replace("\b", "").replace(codes, "What its exit codes mean: [exit codes](exit-codes.md).")
    client = _TYPE.sub(r"\1", client).replace("`--help`: Show", "`-h, --help`: Show")
    client = _EXAMPLES.sub(lambda found: f"**Examples**:\n\n```text\n{dedent(found[1]).strip()}\n```\n", client)
    parts = [
        _ABOUT,
        deeper(client.replace("```console", "```text"), 1),
    ]
    library = [f"glimpse.models {name}" for name in _SUBCOMMAND.findall(_run("glimpse.models", "--help"))]
    for program in (*library, "glimpse.models.train", "glimpse.models.evaluate"):
        parts += [f"## `python -m {program}`\n", f"```text\n{_run(*program.split(), '--help')}```\n"]
    parts += ["## `make`\n", table(("target", ""), [[code(f"make {name}"), text] for name, text in targets().items()])]
    return "\n".join(parts)


def targets() -> dict[str, str]:
    """What can be made, and what for."""
    return dict(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def _run(module: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise ValueError(f"python -m {module} {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr}")
    return ended.stdout.strip() + "\n"
