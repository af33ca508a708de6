"""The command that tells what images really show."""

# ruff: noqa: FBT002, PLR0917  (typer calls this function, with every argument by its name)
from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client import texts
from glimpse.client.commands import exits
from glimpse.client.commands.csv_cells import unescape_cell
from glimpse.client.commands.option_groups import explain
from glimpse.client.commands.plain import plain
from glimpse.client.commands.server_options import ServerOptions, server_options
from glimpse.client.nouns import noun

if TYPE_CHECKING:
    from glimpse.client.feedback import FeedbackResult, TrueClass

_LAST_IMAGE = 999_999  # more than any request has
_NEW = dict.fromkeys(("yes", "true", "1"), True) | dict.fromkeys(("", "no", "false", "0"), False)
_TEXTS = {
    "first": "the answer was right",
    "among_five": "the class was among the first five of the answer",
    "other": "the class was not among the first five of the answer",
    "unknown_request": "the server does not remember this request",
    "unknown_class": "the model has no such class, or the name means several; a class that it lacks needs --new-class",
    "repeated": "this image has been counted before",
}


@server_options
def feedback(
    server: ServerOptions,
    request_id: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST_ID",
            help="The request_id of the answer; classify --json shows it.",
            show_default=False,
        ),
    ] = None,
    true_class: Annotated[
        str | None,
        typer.Argument(
            metavar="CLASS",
            help="What the image shows: a class of the model, by its label, a synonym, its class id or its index.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=_LAST_IMAGE, help="Number of the image, from 0, if the request had several."
        ),
    ] = 0,
    new_class: Annotated[bool, typer.Option("--new-class", help="The model has no such class yet.")] = False,
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Read a CSV file with the columns request_id, true_class and, if needed, image and new_class (yes "
            "or no); - is the standard input.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each image, a line each.")] = False,
) -> None:
    """Tell what images that were classified really show.

    The server counts how often its answers were right, and writes the true class beside the images that it has kept as
    samples. It has to allow this with --feedback. The exit code is 1 if any of them was not counted.
    """
    from glimpse.client.feedback import TrueClass

    if csv_file is not None:
        if request_id is not None or true_class is not None:
            raise typer.BadParameter("Expected: REQUEST_ID and CLASS, or --csv. Received: both.")
        classes = list(_rows(csv_file, new_class=new_class))
    elif request_id is None or true_class is None:
        raise typer.BadParameter("Expected: REQUEST_ID and CLASS, or --csv FILE.")
    else:
        classes = [TrueClass(request_id, true_class, image, new_class)]
    with server.client() as client:
        results = client.feedback(classes)
        if as_json:
            for given, result in zip(classes, results, strict=True):
                told = {"request_id": given.request_id, "image": given.image, **asdict(result)}
                typer.echo(json.dumps(told))
        else:
            _print(classes, results)
    if not all(each.counted for each in results):
        raise typer.Exit(exits.Exit.IMAGES_FAILED)


def _rows(file: Path, *, new_class: bool) -> Iterator[TrueClass]:
    """What a CSV file tells.

    Raises:
        typer.BadParameter: it is not as it should be.
    """
    from glimpse.client.feedback import TrueClass

    try:
        text = sys.stdin.read() if str(file) == "-" else texts.decode(file.read_bytes())
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = table.fieldnames or []
        if not {"request_id", "true_class"} <= set(columns):
            named = ", ".join(columns) or "nothing"
            raise typer.BadParameter(
                f"Its first line must name the columns request_id and true_class. Received: {named}.",
                param_hint="--csv",
            )
        for number, row in enumerate(table, start=2):
            given, name = row.get("request_id"), row.get("true_class")
            if not given or not name:
                raise typer.BadParameter(f"Line {number} lacks request_id or true_class.", param_hint="--csv")
            image, is_new = _image(row.get("image") or "0"), _NEW.get((row.get("new_class") or "").strip().casefold())
            if image is None or is_new is None:
                wrong = (
                    f"image must be a number from 0 to {_LAST_IMAGE}"
                    if image is None
                    else "new_class must be yes or no"
                )
                raise typer.BadParameter(f"Line {number}: {wrong}, or empty.", param_hint="--csv")
            yield TrueClass(given, unescape_cell(name), image, new_class or is_new)
    except csv.Error as error:
        raise typer.BadParameter(f"It is not CSV: {error}.", param_hint="--csv") from error
    except (OSError, ValueError) as error:
        raise typer.BadParameter(explain(error), param_hint="--csv") from error


def _image(cell: str) -> int | None:
    """The number of an image in its request; None: it is none."""
    number = int(cell) if cell.isascii() and cell.isdecimal() and len(cell) < 10 else -1
    return number if 0 <= number <= _LAST_IMAGE else None


def _print(classes: list[TrueClass], results: list[FeedbackResult]) -> None:
    for given, result in zip(classes, results, strict=True):
        if len(results) == 1 or not result.counted:
            kept = "; its sample has the class now" if result.sampled else ""
            stream = sys.stdout if result.counted else sys.stderr
            print(plain(f"{given.request_id}: {_TEXTS.get(result.outcome, result.outcome)}{kept}"), file=stream)
    if len(results) != 1:
        found = Counter(each.outcome for each in results)
        counted, right = sum(each.counted for each in results), found["first"]
        sampled = sum(each.sampled for each in results)
        typer.echo(
            f"{counted} of {len(results)} counted: {right} {noun(right, 'answer was', 'answers were')} right, "
            f"{found['among_five']} had the class among the first five. {sampled} "
            f"{noun(sampled, 'sample has its', 'samples have their')} class now."
        )
