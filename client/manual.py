"""The manual page of `glimpse`, made from the commands themselves: ``python -m glimpse.client.manual > glimpse.1``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from glimpse.client.commands import exits, standard
from glimpse.client.commands.app import app

_FILES = """\
.TP
.I ~/.config/glimpse/config.toml
Your own defaults of the options that find the server, one a line, such as
.EX
target = "glimpse.example:443"
tls_ca = "ca.pem"
token_file = "token"
.EE
Files are looked for beside it. GLIMPSE_CLIENT_CONFIG names another file.
Flags come before the environment, the environment before this file.
"""


def page(version: str) -> str:
    """The page in man's macros."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("glimpse", [], resilient_parsing=True)
    lines = [
        f'.TH GLIMPSE 1 "" "glimpse {_escape(version)}" "User Commands"',
        ".SH NAME",
        r"glimpse \- " + _escape(_sentence(group.help)),
        ".SH SYNOPSIS",
    ]
    commands = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    contexts = {name: type(context)(command, info_name=f"glimpse {name}") for name, command in commands}
    for name, command in commands:
        usage = " ".join(command.collect_usage_pieces(contexts[name]))
        lines += [".PP", rf"\fBglimpse {name}\fR {_escape(usage)}"]
    lines.append(".SH OPTIONS")
    for parameter in group.params:
        lines += _parameter(parameter, context)
    lines.append(".SH COMMANDS")
    shared = _shared([command for _, command in commands])
    for name, command in commands:
        lines += [f".SS {name}", *_paragraphs(command.help)]
        for parameter in command.params:
            if parameter.name not in shared:
                lines += _parameter(parameter, contexts[name])
    lines += [".SH OPTIONS THAT FIND THE SERVER"]
    name, command = next((name, command) for name, command in commands if shared <= {p.name for p in command.params})
    for parameter in command.params:
        if parameter.name in shared:
            lines += _parameter(parameter, contexts[name])
    lines += [".SH EXAMPLES", ".EX"]
    for _, command in commands:
        lines += [_escape(line.strip()) for line in str(command.epilog).splitlines() if line.startswith("  ")]
    lines += [".EE", ".SH EXIT STATUS"]
    for code, text in re.findall(r"^ +(\d+)  (.+)$", exits.TABLE, re.MULTILINE):
        lines += [".TP", rf"\fB{code}\fR", _escape(text)]
    return "\n".join([*lines, ".SH FILES", _FILES])


def _shared(commands: list[Any]) -> set[str]:
    """Names of the options that every command has that asks a server."""
    sets = [{parameter.name for parameter in command.params} for command in commands]
    return set.intersection(*(names for names in sets if "target" in names))


def _parameter(parameter: Any, context: Any) -> Iterator[str]:
    record = parameter.get_help_record(context)
    if record is None:
        return
    names, text = record
    yield ".TP"
    yield rf"\fB{_escape(names.split(' <')[0])}\fR"  # without the type of an argument
    yield _escape(" ".join(text.split()))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        items = paragraph.removeprefix("\b\n").split("\n- ") if paragraph.startswith("\b") else [paragraph]
        yield "\n.br\n".join(_escape(" ".join(each.removeprefix("- ").split())) for each in items)
        yield ".PP"


def _sentence(text: str) -> str:
    return text[0].lower() + text.strip().rstrip(".")[1:]


def _escape(text: str) -> str:
    """`text` as it stands, whatever it begins with."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


def main() -> None:
    """Print the page."""
    from glimpse import __version__

    argparse.ArgumentParser(
        prog="python -m glimpse.client.manual", description="Print the manual page of glimpse."
    ).parse_args()
    sys.stdout.write(page(__version__))


if __name__ == "__main__":
    standard.prepare()
    with standard.checked():
        main()
