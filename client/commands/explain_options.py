"""The options that ask why an answer is what it is, and what becomes of the maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glimpse.client.commands import option_groups, overlay
from glimpse.client.commands.find_images import STDIN
from glimpse.client.commands.option_groups import option_group
from glimpse.client.commands.overlay import Overlays
from glimpse.client.commands.plain import plain

if TYPE_CHECKING:
    from glimpse.client.results import ImageResult


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """What is explained, how, and where its pictures go."""

    folder: Path | None
    method: str
    class_name: str

    def arguments(self) -> dict[str, Any]:
        """For `Client.classify_many`."""
        return {} if self.folder is None else {"explain": self.method, "explain_class": self.class_name}

    def drawing(self, images: list[str], *, resume: bool) -> Drawing:
        """What draws the maps of a run, beside those of the run that it resumes.

        Raises:
            typer.BadParameter: it cannot be begun.
        """
        if self.folder is None:
            return Drawing(None)
        if not overlay.available():
            raise typer.BadParameter(overlay.MISSING, param_hint="--explain")
        if STDIN in images:
            raise typer.BadParameter("It needs files: the standard input cannot be drawn.", param_hint="--explain")
        inside = self.folder.resolve()
        if any(Path(each).resolve() in (inside, *inside.parents) for each in images if Path(each).is_dir()):
            raise typer.BadParameter(
                f"{self.folder} is in a folder whose images are classified, and the pictures would be, too. Give "
                "another folder.",
                param_hint="--explain",
            )
        try:
            return Drawing(Overlays(self.folder, keep=resume))
        except OSError as error:
            raise typer.BadParameter(option_groups.explain(error), param_hint="--explain") from error


class Drawing:
    """Draws the map of each answer that has one."""

    def __init__(self, overlays: Overlays | None) -> None:
        """Draw nothing where there is no `overlays`."""
        self._overlays = overlays

    def draw(self, path: str, result: ImageResult) -> None:
        """Draw the map of an answer; what cannot be drawn is said on stderr."""
        if self._overlays is None or result.error is not None:
            return
        if result.explanation is None:
            said = "its class is not among the ten that have a map; --explain-method=occlusion has one of every class"
        else:
            said = self._overlays.write(path, result.explanation)
        if said:
            typer.echo(plain(f"No map of {path}: {said}."), err=True)


def _explain_options(
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a picture of each image to this folder that shows where in it the score of its first class "
            "comes from. Needs Pillow.",
        ),
    ] = None,
    explain_method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="How: cam (a class activation map) or occlusion, with which each image counts as 50 in the server's "
            "limits. Without it, cam where the model has it.",
        ),
    ] = "",
    explain_class: Annotated[
        str,
        typer.Option(metavar="CLASS", help="Explain this class, named as for --only, and not the first one."),
    ] = "",
) -> ExplainOptions:
    for given, name in ((explain_class, "--explain-class"), (explain_method, "--explain-method")):
        if explain is None and given:
            raise typer.BadParameter("It needs --explain.", param_hint=name)
    return ExplainOptions(explain, explain_method or "auto", explain_class)


explain_options = option_group(_explain_options)
