"""The command that manages the models of a server: lists, loads, unloads, names and rolls them out."""

# ruff: noqa: FBT002, PLR0917  (typer calls this function, with every argument by its name)
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glimpse.client.commands.describe import AsJson
from glimpse.client.commands.plain import plain
from glimpse.client.commands.server_options import ServerOptions, server_options
from glimpse.client.nouns import noun

if TYPE_CHECKING:
    from glimpse.client.repository import ModelRepository, ModelStatus, Rollout


class Action(StrEnum):
    """What is done with the models."""

    LIST = "list"
    LOAD = "load"
    UNLOAD = "unload"
    PROMOTE = "promote"
    ALIAS = "alias"
    CANARY = "canary"
    SHADOW = "shadow"
    ROLLBACK = "rollback"


# For each action that takes them: names of what follows, and how many of these are needed.
_WORDS: dict[Action, tuple[tuple[str, ...], int]] = {
    Action.LIST: ((), 0),
    Action.LOAD: (("NAME", "VERSION"), 1),
    Action.UNLOAD: (("NAME", "VERSION"), 1),
    Action.PROMOTE: (("NAME", "VERSION"), 2),
    Action.ALIAS: (("NAME", "ALIAS", "VERSION"), 2),
    Action.CANARY: (("NAME", "VERSION"), 2),
    Action.SHADOW: (("NAME", "VERSION"), 2),
    Action.ROLLBACK: (("NAME",), 1),
}
_ROLLS_OUT = {Action.CANARY, Action.SHADOW}
_CANARY_ONLY = ("max_error_rate", "min_requests", "window")
_STABLE = "stable"


def a_share(text: str) -> float:
    """A share, from 0 to 1 or with a % sign.

    Raises:
        typer.BadParameter: it is neither.
    """
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        found = float(number) / percent
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise typer.BadParameter(f"Expected: a number from 0 to 1, or from 0% to 100%. Received: {text!r}.")
    return found


_PANEL = "Canary and shadow"
# The lines behind the character are not wrapped into a paragraph.
HELP = """Manage the models of a server with several.

\b
- list: show every version and its state.
- load NAME [VERSION]: load a version, and wait until it is ready. Without
  VERSION, the newest.
- unload NAME [VERSION]: unload a version. Without VERSION, all of them.
- promote NAME VERSION: let a version answer all requests that name none.
- alias NAME ALIAS [VERSION]: give a version another name. Without VERSION,
  remove that name.
- canary NAME VERSION --share S: let a version answer a share of the requests
  that name none.
- shadow NAME VERSION --share S: have a version classify copies of a share of
  these requests, and compare its answers.
- rollback NAME: end the canary. If there is none, undo the last promotion.

The server has to serve a repository of models (GLIMPSE_MODELS), and its setting --admin has to name the caller. Loading
and promoting take as long as the model takes to load, and ten minutes at most unless --timeout is longer. Requests do
not wait for it: the version before answers until the new one is ready.
"""


@server_options
def models(
    server: ServerOptions,
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="What to do, one of these.",
            show_default=False,
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD", help="What the action takes, such as the model's name and version.", show_default=False
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            parser=a_share,
            metavar="SHARE",
            help="Share of the requests that name no version, such as 0.1 or 10%. 0 ends the canary or the shadow.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    max_error_rate: Annotated[
        float | None,
        typer.Option(
            parser=a_share,
            metavar="SHARE",
            help="Roll the canary back when a larger share of its requests fails. Any may fail if this is left out.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            parser=a_share,
            metavar="SHARE",
            help="Compare the canary's answers with those of the version that answers the other requests, and roll it "
            "back when both name the same first class for a smaller share of the images. A shadow below this share "
            "causes an alert; for it, 0.9 if left out.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many requests or compared images of the window there must be before a canary is rolled back. "
            "The server takes 50 if this is left out.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="How far back requests and images count. The server takes 300 if this is left out.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Do what the action says; `HELP` is for users."""
    given = _given(action, words or [])
    terms = {
        "max_error_rate": max_error_rate,
        "min_agreement": min_agreement,
        "min_requests": min_requests,
        "window": window,
    }
    _check_terms(action, share, terms)
    name, *more = given or [""]
    second, third = [*more, "", ""][:2]
    with server.repository() as repository:
        match action:
            case Action.LIST:
                _list(repository, as_json=as_json)
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
            case Action.CANARY | Action.SHADOW:
                _roll_out(repository, action, (name, second), share or 0.0, terms, as_json=as_json)
            case Action.ROLLBACK:
                version, kept = repository.roll_back(name)
                text = f"Version {version} of {name} answers all requests that name no version."
                _say({"name": name, "version": version, "kept": kept}, text + _unless(kept), as_json=as_json)


def _given(action: Action, words: Sequence[str]) -> Sequence[str]:
    """The words behind an action.

    Raises:
        typer.BadParameter: there are too few or too many.
    """
    names, needed = _WORDS[action]
    if needed <= len(words) <= len(names):
        return words
    usage = " ".join([action, *(name if i < needed else f"[{name}]" for i, name in enumerate(names))])
    raise typer.BadParameter(
        f"Expected: models {usage}. Received: {len(words)} {noun(len(words), 'word')} behind {action}."
    )


def _say_alias(name: str, alias: str, version: str, *, kept: bool, as_json: bool) -> None:
    text = f"{alias} of {name} is version {version}." if version else f"{name} has no alias {alias} any more."
    values = {"name": name, "alias": alias, "version": version, "kept": kept}
    _say(values, text + _unless(kept), as_json=as_json)


def _unless(kept: bool) -> str:  # noqa: FBT001 - it is what it says
    return "" if kept else " The repository cannot be written, so that this holds until the server ends."


def _check_terms(action: Action, share: float | None, terms: dict[str, Any]) -> None:
    """Refuse options that an action does not take, and a rollout without a share.

    Raises:
        typer.BadParameter: which.
    """
    if action in _ROLLS_OUT and share is None:
        raise typer.BadParameter(f"{action} needs --share, such as --share 0.1.")
    for name, value in {"share": share, **terms}.items():
        takes = action is Action.CANARY or (action is Action.SHADOW and name not in _CANARY_ONLY)
        if value is not None and not takes:
            raise typer.BadParameter(f"{action} does not take --{name.replace('_', '-')}.")


def _roll_out(
    repository: ModelRepository,
    action: Action,
    which: tuple[str, str],
    share: float,
    terms: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    name, version = which
    percent = f"{100 * share:.4g}%"
    if action is Action.CANARY:
        kept = repository.canary(name, version, share=share, **terms)
        text = f"Version {version} of {name} answers {percent} of the requests that name no version."
    else:
        kept = repository.shadow(name, version, share=share, min_agreement=terms["min_agreement"])
        text = f"Version {version} of {name} classifies copies of {percent} of the requests that name no version."
    if not share:
        text = f"{name} has no {action} any more."
    values: dict[str, object] = {"name": name, "kind": action.value, "version": version, "share": share, "kept": kept}
    _say(values, text + _unless(kept), as_json=as_json)


def _list(repository: ModelRepository, *, as_json: bool) -> None:
    found, rollouts = repository.list(), repository.rollouts()
    if as_json:
        typer.echo(json.dumps({"models": [asdict(each) for each in found], "rollouts": list(map(asdict, rollouts))}))
        return
    _print(found)
    for each in rollouts:
        _print_rollout(each)


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


def _print_rollout(each: Rollout) -> None:
    version = f"version {each.version} of {each.name}"
    if each.rolled_back:
        typer.echo(plain(f"{each.kind}: {version} was rolled back. {each.rolled_back}"))
    else:
        what = f"{'copies of ' if each.kind == 'shadow' else ''}{100 * each.share:.4g}%"
        typer.echo(plain(f"{each.kind}: {version} gets {what} of the requests that name no version"))
    for counts in (each.new, each.usual):
        typer.echo(
            plain(
                f"    version {counts.version}: {counts.answered} answered in {1000 * counts.mean_seconds:.1f} ms on "
                f"average, {counts.failed} failed"
            )
        )
    if each.agreement is not None and each.mean_probability_difference is not None:
        typer.echo(
            f"    same first class: {each.agreement:.1%} of {each.compared_images} "
            f"{noun(each.compared_images, 'image')}, mean difference of the probability: "
            f"{each.mean_probability_difference:.4f}, dropped: {each.dropped_images}"
        )
    elif each.dropped_images:
        typer.echo(f"    no image compared, {each.dropped_images} dropped")
