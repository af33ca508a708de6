"""The options that say which model looks at the pictures and how, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from glimpse.client.options import given

Model = Annotated[str, typer.Option(metavar="NAME", help="A loaded model; the server's default when left out.")]
ModelVersion = Annotated[str, typer.Option(metavar="VERSION", help="Of that model; its newest when left out.")]


@dataclass(frozen=True, slots=True)
class Asking:
    """What a command asks of each picture."""

    geometry: str
    model: str
    version: str
    in_flight: int

    def arguments(self) -> dict[str, Any]:
        """For `Client.classify_many`, whose answers are to come in the order of the pictures."""
        return {
            "geometry": self.geometry,
            "model": self.model,
            "version": self.version,
            "in_flight": self.in_flight,
            "ordered": True,
        }


def _asking(
    geometry: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Fit images by crop, squash, letterbox or pad, where the server allows another."
        ),
    ] = "",
    model: Model = "",
    model_version: ModelVersion = "",
    in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images at a time between being read and being answered.")
    ] = 32,
) -> Asking:
    return Asking(geometry, model, model_version, in_flight)


asking = given(_asking)
