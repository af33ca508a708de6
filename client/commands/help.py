"""How the commands' help looks: placeholders without types, options in groups, examples at the end."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from glimpse.client.commands.program import called, name

if TYPE_CHECKING:
    from collections.abc import Iterator


class Group(TyperGroup):
    """The commands, which say by which name the program was called, and what a file in place of a command may mean."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """A context whose usage line can be typed: with the path of the file, where the program is run as one."""
        as_file = info_name is not None and Path(sys.argv[0]).name == info_name
        return super().make_context(name() if as_file else info_name, args, parent, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:  # click's UsageError, which newer releases of typer have in a copy of their own
            if hasattr(error, "message") and Path(args[0]).exists():
                error.message = f"{args[0]} is no command. To classify it: {name()} classify {shlex.quote(args[0])}"
            raise


class Command(TyperCommand):
    """A command whose help says ``IMAGE...``, and shows the options that find the server apart from its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the words of the command line; NaN is a number to Python, is in every range, and is never meant.

        Raises:
            typer.BadParameter: an option has it.
        """
        rest = super().parse_args(ctx, args)
        parameters: list[Any] = self.get_params(ctx)
        for parameter in parameters:
            value = ctx.params.get(parameter.name)
            if isinstance(value, float) and math.isnan(value):
                raise typer.BadParameter("A number is needed. Received: nan.", ctx=ctx, param=parameter)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line, without braces around what is required."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options, a section for each group."""
        for title, rows in self._sections(ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def _sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        sections: dict[str, list[tuple[str, str]]] = {}
        for title, row in self._rows(ctx):
            sections.setdefault(title, []).append(row)
        return sections

    def _rows(self, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        # Typer's own options, such as --help, come last; they belong to the command's.
        parameters: list[Any] = sorted(self.get_params(ctx), key=lambda each: _panel(each) != "Arguments")
        own = [each for each in parameters if _panel(each) in {"Arguments", "Options"}]
        for parameter in (*own, *(each for each in parameters if each not in own)):
            record = parameter.get_help_record(ctx)
            if record is not None:
                yield _panel(parameter), (placeholder(parameter, record[0]), record[1])


def placeholder(parameter: Any, name: str) -> str:
    """What stands for a parameter in the help: of an argument its name alone, with dots where several are taken."""
    if parameter.param_type_name != "argument":
        return name
    dots = "..." if parameter.nargs != 1 else ""
    return str(parameter.metavar or name.split(" <", maxsplit=1)[0]).removesuffix("...") + dots


def examples(*lines: str) -> str:
    """An epilog of a command's help, with its lines as they are, but for the name by which the program was called."""
    # The character at the beginning keeps it from being wrapped into a paragraph.
    return "\n".join(("\b", "Examples:", *(f"  {called(line)}" for line in lines)))


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return str(getattr(parameter, "rich_help_panel", None) or "Options")
