"""The options that say where answers go and how they look, and what becomes of them."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glimpse.client.options import given, to_write
from glimpse.client.output import File, Output, Stdout
from glimpse.client.records import Csv, Format, JsonLines
from glimpse.client.thumbnails import wanted

_DEFAULT_TOP_K = 5  # the server's


@dataclass(frozen=True, slots=True)
class Writing:
    """Where answers go and how they look."""

    as_json: bool
    as_csv: bool
    path: Path | None
    resume: bool
    retry_failed: bool
    thumbnails: bool

    @property
    def aside(self) -> bool:
        """Whether answers go elsewhere than to the terminal."""
        return self.path is not None or not sys.stdout.isatty()

    @property
    def silent(self) -> bool:
        """Whether a program reads along, to which a word on stderr says nothing."""
        return self.path is None and (self.as_json or self.as_csv)

    @contextmanager
    def opened(self, top_k: int | None) -> Iterator[Output]:
        """Where to write answers of so many classes.

        Raises:
            typer.BadParameter: the file cannot be opened, or holds what cannot be gone on with.
        """
        form: Format | None = JsonLines() if self.as_json else Csv(top_k or _DEFAULT_TOP_K) if self.as_csv else None
        if self.path is None:
            yield Stdout(form, wanted() if self.thumbnails and form is None else None)
            return
        with self._file(self.path, form) as file:
            yield file

    def _file(self, path: Path, form: Format | None) -> File:
        try:
            file = File(path, form)
            try:
                if self.resume:
                    file.resume(retry_failed=self.retry_failed)
                else:
                    file.start()
            except BaseException:
                file.close()
                raise
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--output") from error
        return file


def _writing(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object per image and line.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="For tables: one line per image, K classes side by side.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write answers there; whatever ends the run leaves whole lines."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the FILE of an interrupted run of the same command. Needs --json or --csv."
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="With --resume: also what failed for a reason that may be gone, such as a timeout."
        ),
    ] = False,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            envvar="GLIMPSE_THUMBNAILS",
            help="Show each picture, in terminals that can: kitty (PNG alone), iTerm2, WezTerm and their like.",
        ),
    ] = False,
) -> Writing:
    if as_json and as_csv:
        raise typer.BadParameter("Answers are either --json or --csv.")
    if resume and (output is None or not (as_json or as_csv)):
        raise typer.BadParameter("It needs --output, and --json or --csv.", param_hint="--resume")
    if retry_failed and not resume:
        raise typer.BadParameter("It belongs to --resume.", param_hint="--retry-failed")
    to_write(output, "--output")
    return Writing(as_json, as_csv, output, resume, retry_failed, thumbnails)


writing = given(_writing)
