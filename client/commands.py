"""The commands of `glimpse`. What is slow to import waits inside the functions: `--help` needs none of it."""

# ruff: noqa: FBT001, FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse import __version__
from glimpse.client import config, exits
from glimpse.client.asking import Asking, Model, ModelVersion, asking
from glimpse.client.connecting import Server, connecting, option_kinds
from glimpse.client.images import STDIN, find, nothing_in
from glimpse.client.load_command import load
from glimpse.client.output import Output
from glimpse.client.progress import Shown, progress
from glimpse.client.sort_commands import sort, unsort
from glimpse.client.writing import Writing, writing

if TYPE_CHECKING:
    from glimpse.client.results import ImageResult
    from glimpse.client.sources import Source

# Without rich's markup typer formats help and usage errors itself; loading rich would cost a third of the time.
app = typer.Typer(
    name="glimpse",
    help="Ask a Glimpse server what is in a picture.",
    epilog=exits.TABLE,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")]


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
    """Ask a Glimpse server what is in a picture."""
    if context.invoked_subcommand is None:
        return
    try:
        own = config.defaults(option_kinds())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    context.default_map = {context.invoked_subcommand: own}


@app.command(epilog=exits.TABLE)
@connecting
@asking
@writing
def classify(
    answering: Writing,
    asked: Asking,
    server: Server,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders (with all that is below them), patterns, or - for the standard input.",
            show_default=False,
        ),
    ],
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", help="How many classes to show for an image; 5, or all of fewer, when left out."),
    ] = None,
    min_probability: Annotated[float, typer.Option(metavar="P", help="Hide classes less probable than this.")] = 0.0,
) -> None:
    """Say what is in each picture, in the order given.

    An image that cannot be read or classified is reported in its place, and the others are classified all the same.
    Folders may be of any size: no more than the images in flight are in memory.
    """
    _check_stdin(images)
    with (
        server.client() as client,
        answering.opened(top_k) as answers,
        progress(lambda: find(images), aside=answering.aside) as shown,
    ):
        results = client.classify_many(
            _to_send(images, answers, shown),
            top_k=top_k,
            min_probability=min_probability,
            **asked.arguments(),
        )
        for path, result in results:
            answers.write(path, _of_search(path, result))
            shown(failed=result.error is not None)
    _say_failed(answers.failed, quiet=answering.silent)


app.command(epilog=exits.TABLE)(sort)
app.command(epilog=exits.TABLE)(unsort)
app.command(epilog=exits.TABLE)(load)


@app.command(epilog=exits.TABLE)
@connecting
def describe(server: Server, model: Model = "", model_version: ModelVersion = "", as_json: AsJson = False) -> None:
    """Show what a loaded model is, what it wants and how it runs."""
    with server.client() as client:
        description = client.describe(model=model, version=model_version)
        if as_json:
            typer.echo(json.dumps(asdict(description)))
        else:
            from glimpse.client.render import print_description

            print_description(description)


@app.command(epilog=exits.TABLE)
@connecting
def health(server: Server, as_json: AsJson = False) -> None:
    """Say whether a server lives and takes images. The exit code is 0 only if it does.

    Where the target has several addresses, one of them is asked. --wait waits until it answers, whatever it says.
    """
    with server.client() as client:
        state = client.health()
        if as_json:
            typer.echo(json.dumps(asdict(state)))
        else:
            typer.echo(f"live   {state.live}\nready  {state.ready}")
    if not state.serving:
        raise typer.Exit(exits.Exit.NO_SERVER)


def _check_stdin(images: list[str]) -> None:
    if images.count(STDIN) > 1:
        raise typer.BadParameter("- stands for the standard input, which can be read only once.", param_hint="IMAGE")


def _to_send(arguments: list[str], answers: Output, shown: Shown) -> Iterator[tuple[str, Source]]:
    from glimpse.client.sources import MAX_IMAGE_BYTES

    for path in find(arguments):
        if answers.has(path):
            shown(failed=False)
            continue
        # One byte above the limit is enough to be refused; the standard input may have no end.
        yield path, sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1) if path == STDIN else path


def _of_search(path: str, result: ImageResult) -> ImageResult:
    """`result`, or what is true of a folder that was searched: no image was found in it."""
    if result.error is None or result.error.reason != "NOT_A_FILE":
        return result
    return type(result).failed(result.error.code, "NO_IMAGE_IN_FOLDER", nothing_in(path))


def _say_failed(failed: int, *, quiet: bool) -> None:
    if not failed:
        return
    if not quiet:
        typer.echo(f"{failed:,} {'image' if failed == 1 else 'images'} could not be classified.", err=True)
    raise typer.Exit(exits.Exit.IMAGES_FAILED)
