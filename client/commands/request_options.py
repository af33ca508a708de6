"""The options that say which model classifies the images and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from glimpse.client.commands.option_groups import option_group

Model = Annotated[
    str, typer.Option(metavar="NAME", help="Use this loaded model. Without it, the server's default model answers.")
]
ModelVersion = Annotated[
    str,
    typer.Option(
        metavar="VERSION", help="Use this version of the model. Without it, the stable or the newest one answers."
    ),
]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What is asked of the server for each image."""

    geometry: str
    model: str
    version: str
    in_flight: int

    def arguments(self) -> dict[str, Any]:
        """For `Client.classify_many`, whose answers are to come in the order of the images."""
        return {
            "geometry": self.geometry,
            "model": self.model,
            "version": self.version,
            "in_flight": self.in_flight,
            "ordered": True,
        }


def _request_options(
    geometry: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Fit images to the network's input in another way than the model's own: crop, squash, letterbox or "
            "pad. The server has to allow it with --allow-geometries.",
        ),
    ] = "",
    model: Model = "",
    model_version: ModelVersion = "",
    in_flight: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="How many images may be read and sent without an answer yet."),
    ] = 32,
) -> RequestOptions:
    return RequestOptions(geometry, model, model_version, in_flight)


request_options = option_group(_request_options)
