"""The program `glimpse` and its commands. What is slow to import waits inside functions: `--help` needs none of it."""

# ruff: noqa: FBT001, FBT002  (typer calls these functions, with every argument by its name)
from __future__ import annotations

from typing import Annotated

import typer

from glimpse import __version__
from glimpse.client.commands import classify, config, describe, embed, exits, feedback, models, sort
from glimpse.client.commands.help import Command, Group, examples
from glimpse.client.commands.option_groups import explain
from glimpse.client.commands.server_options import option_kinds
from glimpse.client.load import command as load

# Without rich's markup typer formats help and usage errors itself; loading rich would cost a third of the time.
app = typer.Typer(
    name="glimpse",
    cls=Group,
    help="Classify images with a Glimpse server.",
    epilog=exits.TABLE,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glimpse {__version__}")
        raise typer.Exit


@app.callback()
def glimpse(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  (its callback has done all)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Classify images with a Glimpse server.

    `glimpse COMMAND --help` explains a command and shows examples of it.
    """
    if context.invoked_subcommand is None:
        return
    try:
        own = config.defaults(option_kinds())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(explain(error)) from error
    context.default_map = {context.invoked_subcommand: own}


app.command(
    cls=Command,
    epilog=examples(
        "glimpse classify photo.jpg",
        "glimpse classify holiday/ 'scans/*.png'",
        "glimpse classify --json --top-k 1 holiday/ > answers.jsonl",
        "glimpse classify --csv -o answers.csv --resume holiday/",
        "glimpse classify --only cat,dog --roll-up 0.8 photo.jpg",
        "curl -s https://example.org/cat.jpg | glimpse classify -",
    ),
)(classify.classify)
app.command(
    cls=Command,
    epilog=examples("glimpse embed holiday/ -o vectors.npy", "glimpse embed holiday/ -o vectors.jsonl --resume"),
)(embed.embed)
app.command(
    cls=Command,
    epilog=examples("glimpse similar photo.jpg holiday/", "glimpse similar photo.jpg holiday/ --threshold 0.8"),
)(embed.similar)
app.command(
    cls=Command,
    epilog=examples(
        "glimpse sort holiday/ --into sorted/ --dry-run",
        "glimpse sort holiday/ --into sorted/ --min-probability 0.8",
        "glimpse sort --move inbox/ --into sorted/",
    ),
)(sort.sort)
app.command(
    cls=Command,
    epilog=examples(
        "glimpse unsort sorted/", "glimpse unsort sorted/ --last", "glimpse unsort sorted/undo-20261126-120000.jsonl"
    ),
)(sort.unsort)
app.command(
    cls=Command,
    epilog=examples(
        "glimpse load --callers 8 --duration 30 photo.jpg",
        "glimpse load --rate 50 --threshold 'p99 < 200 ms' --html load.html holiday/",
        "glimpse load --find-knee --slo 200 photo.jpg",
    ),
)(load.load)
app.command(
    cls=Command,
    epilog=examples("glimpse describe", "glimpse describe --json --target glimpse.example:443 --tls"),
)(describe.describe)
app.command(
    cls=Command,
    epilog=examples("glimpse health", "glimpse health --wait --timeout 120 && glimpse classify photo.jpg"),
)(describe.health)
app.command(
    cls=Command,
    help=models.HELP,
    epilog=examples(
        "glimpse models list",
        "glimpse models load flowers",
        "glimpse models canary flowers 4 --share 10% --max-error-rate 1%",
        "glimpse models promote flowers 4",
        "glimpse models rollback flowers",
        "glimpse models alias flowers tested 3",
        "glimpse models unload flowers 3",
    ),
)(models.models)
app.command(
    cls=Command,
    epilog=examples(
        "glimpse feedback 3f6c0d1a 'tabby cat'",
        "glimpse feedback --csv labels.csv",
    ),
)(feedback.feedback)
