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

from glimpse.client.commands.option_groups import explain, option_group, refuse_image_name
from glimpse.client.commands.output import File, Output, Stdout
from glimpse.client.commands.records import Csv, Format, JsonLines
from glimpse.client.commands.thumbnails import for_stdout

_DEFAULT_TOP_K = 5  # the server's


@dataclass(frozen=True, slots=True)
class OutputOptions:
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
    def opened(self, top_k: int | None, *, novelty: bool = False) -> Iterator[Output]:
        """Where to write answers of so many classes, in a table with columns for novelty where that is asked for.

        Raises:
            typer.BadParameter: the file cannot be opened, or holds what cannot be gone on with.
        """
        table = Csv(top_k or _DEFAULT_TOP_K, novelty=novelty) if self.as_csv else None
        form: Format | None = JsonLines() if self.as_json else table
        if self.path is None:
            yield Stdout(form, for_stdout() if self.thumbnails and form is None else None)
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
            raise typer.BadParameter(explain(error), param_hint="--output") from error
        return file


def _output_options(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each image, a line each, for programs.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table: one line for each image, with its K classes side by side.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the answers to this file. It has only whole lines, however the run ends.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run: classify only the images that FILE has no answer for. It needs "
            "--output, and --json or --csv.",
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="With --resume: also classify again what failed for a reason that may have passed, such as a timeout.",
        ),
    ] = False,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            envvar="GLIMPSE_THUMBNAILS",
            help="Show each image beside its answer, in terminals that can show images: iTerm2, WezTerm and, for PNG "
            "files, kitty.",
        ),
    ] = False,
) -> OutputOptions:
    if as_json and as_csv:
        raise typer.BadParameter("Give either --json or --csv, not both.")
    if resume and (output is None or not (as_json or as_csv)):
        raise typer.BadParameter("It needs --output, and --json or --csv.", param_hint="--resume")
    if retry_failed and not resume:
        raise typer.BadParameter("It needs --resume.", param_hint="--retry-failed")
    refuse_image_name(output, "--output")
    return OutputOptions(as_json, as_csv, output, resume, retry_failed, thumbnails)


output_options = option_group(_output_options)
