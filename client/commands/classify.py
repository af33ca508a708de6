"""The command that classifies images."""

# ruff: noqa: PLR0917  (typer calls this function, with every argument by its name)
from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client.commands import exits
from glimpse.client.commands.class_options import ClassOptions, class_options
from glimpse.client.commands.explain_options import ExplainOptions, explain_options
from glimpse.client.commands.find_images import STDIN, find, why_not_found
from glimpse.client.commands.output import Output
from glimpse.client.commands.output_options import OutputOptions, output_options
from glimpse.client.commands.plain import plain
from glimpse.client.commands.progress import Advance, progress
from glimpse.client.commands.request_options import RequestOptions, request_options
from glimpse.client.commands.server_options import ServerOptions, server_options
from glimpse.client.nouns import noun

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput
    from glimpse.client.results import ImageResult


@server_options
@request_options
@class_options
@explain_options
@output_options
def classify(
    output: OutputOptions,
    explain: ExplainOptions,
    classes: ClassOptions,
    request: RequestOptions,
    server: ServerOptions,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders (with all folders in them), patterns such as 'scans/*.png', or - for the standard "
            "input.",
            show_default=False,
        ),
    ],
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="How many classes to show for each image. Without it, the 5 most probable ones, or of a multi-label "
            "model all labels that are over their thresholds.",
        ),
    ] = None,
    min_probability: Annotated[
        float, typer.Option(metavar="P", help="Leave out classes that are less probable than this, 0 to 1.")
    ] = 0.0,
    novelty: Annotated[
        bool | None,
        typer.Option(
            "--novelty/--no-novelty",
            help="Mark images that show none of the model's classes; --json and --csv have the score of every image. "
            "Without it, as the server does by default.",
            show_default=False,
        ),
    ] = None,
    require_known: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--require-known", help="Show no classes of an image that shows none of the model's; implies --novelty."
        ),
    ] = False,
) -> None:
    """Print the most probable classes of each image.

    Answers come in the order of the images. An image that cannot be read or classified is reported in its place, and
    the others are classified all the same. Folders may be of any size: only the images in flight are in memory.
    """
    check_stdin(images)
    drawing = explain.drawing(images, resume=output.resume)
    with (
        server.client() as client,
        output.opened(top_k, novelty=bool(novelty or require_known)) as answers,
        progress(lambda: find(images), aside=output.aside) as advance,
    ):
        results = client.classify_many(
            to_send(images, answers, advance, server.max_message_bytes),
            top_k=top_k,
            min_probability=min_probability,
            novelty=novelty,
            require_known=require_known,
            **classes.arguments(),
            **explain.arguments(),
            **request.arguments(),
        )
        for path, result in results:
            answers.write(path, explained(path, result))
            drawing.draw(path, result)
            advance(failed=result.error is not None)
    if said := answers.summary:
        typer.echo(plain(said), err=True)
    say_failed(answers.failed, quiet=output.silent)


def check_stdin(images: list[str]) -> None:
    """Refuse to read the standard input twice.

    Raises:
        typer.BadParameter: it is named twice.
    """
    if images.count(STDIN) > 1:
        raise typer.BadParameter("- stands for the standard input, which can be read only once.", param_hint="IMAGE")


def to_send(
    arguments: list[str], answers: Output, advance: Advance, max_message_bytes: int
) -> Iterator[tuple[str, ImageInput]]:
    """The images that the arguments name and an earlier run has not answered, by their paths."""
    from glimpse.client.image_input import room

    most = room(max_message_bytes)

    for path in find(arguments):
        if answers.has(path):
            advance(failed=False)
            continue
        # One byte above the limit is enough to be refused; the standard input may have no end.
        yield path, sys.stdin.buffer.read(most + 1) if path == STDIN else path


def explained(path: str, result: ImageResult) -> ImageResult:
    """`result`, or what is known better of an argument that led to no image."""
    if result.error is None:
        return result
    if result.error.reason == "NOT_A_FILE":
        return type(result).failed(result.error.code, "NO_IMAGE_IN_FOLDER", why_not_found(path))
    if result.error.reason == "FILE_NOT_FOUND":
        return type(result).failed(result.error.code, result.error.reason, why_not_found(path))
    return result


def say_failed(failed: int, *, quiet: bool) -> None:
    """End with an exit code of its own where images failed, and say how many unless it is to be quiet.

    Raises:
        typer.Exit: some failed.
    """
    if not failed:
        return
    if not quiet:
        typer.echo(f"{failed:,} {noun(failed, 'image')} could not be classified.", err=True)
    raise typer.Exit(exits.Exit.IMAGES_FAILED)
