"""The commands that put photos into folders by label, and take that back."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client import exits
from glimpse.client.asking import Asking, asking
from glimpse.client.connecting import Server, connecting
from glimpse.client.images import find
from glimpse.client.options import given
from glimpse.client.placing import How
from glimpse.client.plain import plain
from glimpse.client.progress import Shown, progress

if TYPE_CHECKING:
    from glimpse.client.sorting import Sorted


def _how(
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies.")] = False,
    symlink: Annotated[bool, typer.Option("--symlink", help="Symbolic links instead of copies.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Move the photos instead of copying them.")] = False,
) -> How:
    if link + symlink + move > 1:
        raise typer.BadParameter("Photos are copied, or one of --link, --symlink and --move.")
    return How.LINK if link else How.SYMLINK if symlink else How.MOVE if move else How.COPY


@connecting
@asking
@given(_how)
def sort(
    how: How,
    asked: Asking,
    server: Server,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Photos: files, folders (with all that is below them), patterns."),
    ],
    into: Annotated[str, typer.Option(metavar="FOLDER", help="Where the folders of the labels are, or will be.")],
    min_probability: Annotated[
        float, typer.Option(metavar="P", min=0.0, max=1.0, help="Less probable ones go to the folder `unsure`.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say where they would go, and touch nothing.")] = False,
) -> None:
    """Copy photos into folders by their label.

    Nothing is written over: a name that is taken gets a number, and a photo that is there already is left alone, so
    that an interrupted run can be started again. FOLDER gets a list of what was done, and `unsort` takes it back.
    """
    from glimpse.client.sorting import Sorter

    def photos() -> Iterator[str]:
        # A folder without a photo has nothing to be sorted; one that cannot be read is told of.
        return (path for path in find(sources, leave_out=into) if not _is_empty_folder(path))

    with (
        server.client() as client,
        Sorter(into, how, min_probability=min_probability, dry_run=dry_run) as sorter,
        progress(photos, aside=not sys.stdout.isatty()) as shown,
    ):
        try:
            answers = client.classify_many(((path, path) for path in photos()), top_k=1, **asked.arguments())
            done = _show((sorter.sort(path, result) for path, result in answers), shown)
        finally:
            if sorter.undo_list:
                typer.echo(plain(f"To take it back: glimpse unsort {shlex.quote(sorter.undo_list)}"), err=True)
    _sum_up(done, f"would be {how}" if dry_run else str(how))


def unsort(
    undo_list: Annotated[Path, typer.Argument(metavar="LIST", help="What `sort` left in its FOLDER.")],
) -> None:
    """Take back what `sort` did. What was changed since stays where it is; no server is asked."""
    from glimpse.client.sorting import unsort as take_back

    with exits.by_cause(""):
        try:
            done = _show(take_back(undo_list), lambda **_: None)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="LIST") from error
    _sum_up(done, "taken back")


def _is_empty_folder(path: str) -> bool:
    return Path(path).is_dir() and os.access(path, os.R_OK)


def _show(photos: Iterable[Sorted], shown: Shown) -> Counter[str]:
    from glimpse.client.render import print_line

    done: Counter[str] = Counter()
    for each in photos:
        if each.place is None:
            print_line(f"{each.source}: {each.why}")
        else:
            print_line(f"{each.source} -> {each.place}" + (f" ({each.why})" if each.why else ""))
        done["failed" if each.failed else "left" if each.place is None else "done"] += 1
        shown(failed=each.failed)
    return done


def _sum_up(done: Counter[str], deed: str) -> None:
    typer.echo(f"{done['done']:,} {deed}, {done['left']:,} left alone, {done['failed']:,} failed.", err=True)
    if done["failed"]:
        raise typer.Exit(exits.Exit.IMAGES_FAILED)
