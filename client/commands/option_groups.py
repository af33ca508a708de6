"""Options that several commands share, as one argument of those commands."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import typer

from glimpse.client.commands.find_images import is_named_like_one

_Command = Callable[..., None]


def option_group(make: Callable[..., Any]) -> Callable[[_Command], _Command]:
    """A decorator that gives a command all options of `make`; the command's own first argument is what it makes.

    The outermost decorator's options come last in the help, and its argument second, and so on.
    """

    def decorate(command: _Command) -> _Command:
        options = inspect.signature(make, eval_str=True).parameters
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def run(*made: Any, **arguments: Any) -> None:
            first = make(**{name: arguments.pop(name) for name in options})
            command(first, *made, **arguments)

        # What typer reads the command line by.
        parameters = [*own, *options.values()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may have one
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def refuse_image_name(path: os.PathLike[str] | None, option: str) -> None:
    """Refuse to write over an image: one that was to be sent easily stands behind an option that takes a file's name.

    Raises:
        typer.BadParameter: what the option was given is an image by its name.
    """
    if path is not None and is_named_like_one(path):
        raise typer.BadParameter(
            f"The option takes the name of a file to write, and {os.fspath(path)} is named as images are. "
            "Give another name.",
            param_hint=option,
        )


def explain(error: OSError | ValueError) -> str:
    """What is wrong with a file or a value, in a sentence without the number of an error."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return f"{error.strerror}."
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}."
    return str(error)
