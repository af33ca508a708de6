"""The options that say which classes may answer, and when a group answers in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from glimpse.client.commands.option_groups import option_group


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """Which classes may answer."""

    only: tuple[str, ...]
    excepted: tuple[str, ...]
    roll_up: float

    def arguments(self) -> dict[str, Any]:
        """For `Client.classify_many`."""
        return {"allow": self.only, "deny": self.excepted, "roll_up": self.roll_up}


def _class_options(
    only: Annotated[
        str,
        typer.Option(
            metavar="CLASSES",
            help="Let only these classes answer: labels, class ids, indices or names of groups, such as cat,dog, with "
            "commas between them. Their probabilities add up to 1.",
        ),
    ] = "",
    excepted: Annotated[
        str, typer.Option("--except", metavar="CLASSES", help="Let these classes not answer; named as for --only.")
    ] = "",
    roll_up: Annotated[
        float,
        typer.Option(
            metavar="P",
            min=0.0,
            max=1.0,
            help="Answer with a group of classes, such as dog, where no class alone is at least this probable and the "
            "group is. 0 means never.",
        ),
    ] = 0.0,
) -> ClassOptions:
    return ClassOptions(_names(only), _names(excepted), roll_up)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


class_options = option_group(_class_options)
