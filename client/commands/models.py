"""The command that manages the models of a server: lists, loads, unloads, promotes and names them."""

# ruff: noqa: FBT002  (typer calls this function, with every argument by its name)
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client.commands.describe import AsJson
from glimpse.client.commands.plain import plain
from glimpse.client.commands.server_options import ServerOptions, server_options

if TYPE_CHECKING:
    from glimpse.client.repository import ModelStatus


class Action(StrEnum):
    """What is done with the models."""

    LIST = "list"
    LOAD = "load"
    UNLOAD = "unload"
    PROMOTE = "promote"
    ALIAS = "alias"


# For each action that takes them: names of what follows, and how many of these are needed.
_WORDS: dict[Action, tuple[tuple[str, ...], int]] = {
    Action.LIST: ((), 0),
    Action.LOAD: (("NAME", "VERSION"), 1),
    Action.UNLOAD: (("NAME", "VERSION"), 1),
    Action.PROMOTE: (("NAME", "VERSION"), 2),
    Action.ALIAS: (("NAME", "ALIAS", "VERSION"), 2),
}
_STABLE = "stable"


@server_options
def models(
    server: ServerOptions,
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="list: every version with its state. load NAME [VERSION]: load a version, the newest without one, and "
            "wait until it is ready. unload NAME [VERSION]: unload a version, or all. promote NAME VERSION: let a "
            "version answer all requests that name none. alias NAME ALIAS [VERSION]: give a version another name, or "
            "take the name away.",
            show_default=False,
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD", help="What the action takes: the model's name, and so on.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Manage the models of a server that serves a repository of them (GLIMPSE_MODELS).

    The server has to allow it with --admin. Loading and promoting take as long as the model takes to load, and ten
    minutes at most unless --timeout is longer. Nobody who classifies waits for it: the version before answers until the
    new one is ready.
    """
    given = _given(action, words or [])
    name, *more = given or [""]
    second, third = [*more, "", ""][:2]
    with server.repository() as repository:
        match action:
            case Action.LIST:
                found = repository.list()
                if as_json:
                    typer.echo(json.dumps({"models": [asdict(each) for each in found]}))
                else:
                    _print(found)
            case Action.LOAD:
                loaded = repository.load(name, second)
                _say(asdict(loaded), f"{loaded.name} {loaded.version} is ready.", as_json=as_json)
            case Action.UNLOAD:
                repository.unload(name, second)
                _say({"unloaded": name, "version": second}, f"Unloaded {name} {second}".strip() + ".", as_json=as_json)
            case Action.PROMOTE:
                kept = repository.set_alias(name, _STABLE, second)
                _say_alias(name, _STABLE, second, kept=kept, as_json=as_json)
            case Action.ALIAS:
                kept = repository.set_alias(name, second, third)
                _say_alias(name, second, third, kept=kept, as_json=as_json)


def _given(action: Action, words: Sequence[str]) -> Sequence[str]:
    """The words behind an action.

    Raises:
        typer.BadParameter: there are too few or too many.
    """
    names, needed = _WORDS[action]
    if needed <= len(words) <= len(names):
        return words
    usage = " ".join([action, *(name if i < needed else f"[{name}]" for i, name in enumerate(names))])
    raise typer.BadParameter(f"Expected: models {usage}. Received: {len(words)} words behind {action}.")


def _say_alias(name: str, alias: str, version: str, *, kept: bool, as_json: bool) -> None:
    text = f"{alias} of {name} is version {version}." if version else f"{name} has no alias {alias} any more."
    if not kept:
        text += " The repository cannot be written, so that this holds until the server ends."
    _say({"name": name, "alias": alias, "version": version, "kept": kept}, text, as_json=as_json)


def _say(values: dict[str, object], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else plain(text))


def _print(found: Sequence[ModelStatus]) -> None:
    rows = [("model", "version", "state", "aliases", "runs on")]
    for each in found:
        state = f"{each.state} *" if each.answers_by_default else each.state
        runs = " ".join(filter(None, (each.runtime, each.device, each.precision)))
        rows.append((each.name, each.version, state, ", ".join(each.aliases), runs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    reasons = ["", *(each.reason for each in found)]
    for row, reason in zip(rows, reasons, strict=True):
        line = "  ".join(f"{plain(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())
        if reason:
            typer.echo(f"    {plain(reason)}")
    if any(each.answers_by_default for each in found):
        typer.echo("* answers requests that name no version")
