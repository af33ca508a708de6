"""The commands of `glimpse`. What is slow to import waits inside the functions: `--help` needs none of it."""

# ruff: noqa: FBT001, FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client import exits
from client.connecting import Server, connecting
from client.images import STDIN, find
from client.results import ImageResult

if TYPE_CHECKING:
    from client.sources import Source

# Without rich's markup typer formats help and usage errors itself; loading rich would cost a third of the time.
app = typer.Typer(
    name="glimpse",
    help="Ask a Glimpse server what is in a picture.",
    epilog=exits.TABLE,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

Model = Annotated[str, typer.Option(metavar="NAME", help="A loaded model; the server's default when left out.")]
ModelVersion = Annotated[str, typer.Option(metavar="VERSION", help="Of that model; its newest when left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glimpse {_installed_version()}")
        raise typer.Exit


def _installed_version() -> str:
    import tomllib
    from importlib import metadata
    from pathlib import Path

    try:
        return metadata.version("glimpse-serve")
    except metadata.PackageNotFoundError:  # a clone that is run as it lies there
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        return str(project["version"])


@app.callback()
def glimpse(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask a Glimpse server what is in a picture."""


@app.command(epilog=exits.TABLE)
@connecting
def classify(
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
    geometry: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Fit images by crop, squash, letterbox or pad, where the server allows another."
        ),
    ] = "",
    model: Model = "",
    model_version: ModelVersion = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: one JSON object per image and line, in the order given.")
    ] = False,
) -> None:
    """Say what is in each picture, in the order given.

    An image that cannot be read or classified is reported in its place, and the others are classified all the same.
    """
    if images.count(STDIN) > 1:
        raise typer.BadParameter("- stands for the standard input, which can be read only once.", param_hint="IMAGE")
    failed = 0
    with server.client() as client:
        show = _printer(as_json)
        answers = client.classify_many(
            _to_send(images),
            top_k=top_k,
            min_probability=min_probability,
            geometry=geometry,
            model=model,
            version=model_version,
            ordered=True,
        )
        for path, result in answers:
            failed += result.error is not None
            show(path, result)
        if failed and not as_json:
            typer.echo(f"{failed} {'image' if failed == 1 else 'images'} could not be classified.", err=True)
    if failed:
        raise typer.Exit(exits.Exit.IMAGES_FAILED)


@app.command(epilog=exits.TABLE)
@connecting
def describe(server: Server, model: Model = "", model_version: ModelVersion = "", as_json: AsJson = False) -> None:
    """Show what a loaded model is, what it wants and how it runs."""
    with server.client() as client:
        description = client.describe(model=model, version=model_version)
        if as_json:
            typer.echo(json.dumps(asdict(description)))
        else:
            from client.render import print_description

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


def _to_send(arguments: list[str]) -> Iterator[tuple[str, Source]]:
    from client.sources import MAX_IMAGE_BYTES

    for path in find(arguments):
        # One byte above the limit is enough to be refused; the standard input may have no end.
        yield path, sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1) if path == STDIN else path


def _printer(as_json: bool) -> Callable[[str, ImageResult], None]:
    if as_json:
        return _print_json
    from client.render import print_result

    return print_result


def _print_json(path: str, result: ImageResult) -> None:
    sys.stdout.write(json.dumps(_to_json(path, result)) + "\n")
    sys.stdout.flush()  # a program at the other end works on the first answer while the second is under way


def _to_json(path: str, result: ImageResult) -> dict[str, Any]:
    return {
        "path": path,
        "predictions": [
            {"label": each.label, "index": each.index, "probability": each.probability}
            | ({"class_id": each.class_id} if each.class_id else {})
            for each in result.predictions
        ],
        "error": None if result.error is None else asdict(result.error),
        "model": None if result.model is None else asdict(result.model),
    }
