"""The commands that put photos into folders by label, and undo that."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import os
import shlex
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client.commands import exits
from glimpse.client.commands.class_options import ClassOptions, class_options
from glimpse.client.commands.classify import explained
from glimpse.client.commands.find_images import find, why_not_found
from glimpse.client.commands.option_groups import explain, option_group
from glimpse.client.commands.placing import Method
from glimpse.client.commands.plain import plain
from glimpse.client.commands.program import called
from glimpse.client.commands.progress import Advance, progress
from glimpse.client.commands.request_options import RequestOptions, request_options
from glimpse.client.commands.server_options import ServerOptions, server_options

if TYPE_CHECKING:
    from glimpse.client.commands.sorting import Outcome


def _method(
    link: Annotated[bool, typer.Option("--link", help="Make hard links instead of copies.")] = False,
    symlink: Annotated[bool, typer.Option("--symlink", help="Make symbolic links instead of copies.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Move the photos instead of copying them.")] = False,
) -> Method:
    if link + symlink + move > 1:
        raise typer.BadParameter("Give only one of --link, --symlink and --move; without them, photos are copied.")
    return Method.LINK if link else Method.SYMLINK if symlink else Method.MOVE if move else Method.COPY


@server_options
@request_options
@class_options
@option_group(_method)
def sort(
    method: Method,
    classes: ClassOptions,
    request: RequestOptions,
    server: ServerOptions,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO",
            help="Files, folders (with all folders in them), patterns such as 'scans/*.png'.",
            show_default=False,
        ),
    ],
    into: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder in which each label gets a folder of its own.")
    ],
    min_probability: Annotated[
        float,
        typer.Option(
            metavar="P",
            min=0.0,
            max=1.0,
            help="Put photos whose best class is less probable than this, 0 to 1, into the folder `unsure`.",
        ),
    ] = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say where the photos would go, and change nothing.")
    ] = False,
) -> None:
    """Copy photos into folders named after their most probable class.

    No file is overwritten: where a name is taken, the photo gets a number behind its name. A photo that is there
    already is left alone, so an interrupted run can be started again. FOLDER gets a list of what was done, by which
    `unsort FOLDER` undoes it.
    """
    from glimpse.client.commands.sorting import Sorter

    if os.path.lexists(into) and not Path(into).is_dir():
        raise typer.BadParameter(f"It takes the name of a folder; {into} is none.", param_hint="--into")

    def photos() -> Iterator[str]:
        # A folder without a photo has nothing to be sorted; one that cannot be read is told of.
        return (path for path in find(sources, leave_out=into) if not _is_empty_folder(path))

    with (
        server.client() as client,
        Sorter(into, method, min_probability=min_probability, dry_run=dry_run) as sorter,
        progress(photos, aside=not sys.stdout.isatty()) as advance,
    ):
        try:
            answers = client.classify_many(
                ((path, path) for path in photos()), top_k=1, **classes.arguments(), **request.arguments()
            )
            done = _show((sorter.sort(path, explained(path, result)) for path, result in answers), advance)
        finally:
            if sorter.undo_list:
                undo = called(f"glimpse unsort {shlex.quote(sorter.undo_list)}")
                typer.echo(plain(f"To undo this: {undo}"), err=True)
    if not done:
        for source in sources:
            if _is_empty_folder(source):
                typer.echo(plain(why_not_found(source)), err=True)
    _sum_up(done, f"would be {method}" if dry_run else str(method))


def unsort(
    undo_list: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|LIST",
            help="The FOLDER that `sort --into FOLDER` filled, or one of the undo lists in it.",
        ),
    ],
    *,
    last: Annotated[
        bool, typer.Option("--last", help="Of several runs of `sort`, undo the last one not undone yet.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Undo all runs of `sort`, the last one first.")] = False,
) -> None:
    """Undo what `sort` did.

    Copies and links are removed, and moved photos go back. A file that was changed since then stays where it is. No
    server is asked.
    """
    from glimpse.client.commands.sorting import find_undo_lists, has_any_left
    from glimpse.client.commands.sorting import unsort as undo

    if last and every:
        raise typer.BadParameter("Give one of --last and --all, not both.", param_hint="--last")
    done: Counter[str] = Counter()
    kept: list[Path] = []
    with exits.by_cause(""):
        try:
            lists = find_undo_lists(undo_list, every=every, last=last)
            for each in lists:
                if has_any_left(each):
                    kept.append(each)
                    done += _show(undo(each), lambda **_: None)
                else:
                    deque(undo(each), maxlen=0)  # removes folders that are empty, and no photo
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise typer.BadParameter(explain(error), param_hint="FOLDER|LIST") from error
    if not kept:
        runs = "This run has" if len(lists) == 1 else "All runs have"
        typer.echo(f"{runs} been undone already: none of the photos is where it was put.", err=True)
        return
    for each in kept if not done["failed"] else []:
        typer.echo(plain(f"The list {each} is kept. It is of no more use and may be deleted."), err=True)
    _sum_up(done, "undone")


def _is_empty_folder(path: str) -> bool:
    return Path(path).is_dir() and os.access(path, os.R_OK)


def _show(photos: Iterable[Outcome], advance: Advance) -> Counter[str]:
    from glimpse.client.commands.render import print_line

    done: Counter[str] = Counter()
    for each in photos:
        if each.place is None:
            print_line(f"{each.source}: {each.why}")
        else:
            print_line(f"{each.source} -> {each.place}" + (f" ({each.why})" if each.why else ""))
        done["failed" if each.failed else "left" if each.place is None else "done"] += 1
        advance(failed=each.failed)
    return done


def _sum_up(done: Counter[str], deed: str) -> None:
    typer.echo(f"{done['done']:,} {deed}, {done['left']:,} left alone, {done['failed']:,} failed.", err=True)
    if done["failed"]:
        raise typer.Exit(exits.Exit.IMAGES_FAILED)
