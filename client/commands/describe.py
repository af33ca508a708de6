"""The commands that ask a server about itself: its model, and whether it is serving."""

# ruff: noqa: FBT002  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from glimpse.client.commands import exits
from glimpse.client.commands.request_options import Model, ModelVersion
from glimpse.client.commands.server_options import ServerOptions, server_options

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


@server_options
def describe(
    server: ServerOptions, model: Model = "", model_version: ModelVersion = "", as_json: AsJson = False
) -> None:
    """Describe a loaded model and how it runs.

    The description has the model's classes, weights and preprocessing, the server's runtime and limits, and the network
    stage by stage, with parameters and multiply-adds. Where the output is not a
    terminal, columns are separated by tabs and lines are never wrapped.
    """
    with server.client() as client:
        description = client.describe(model=model, version=model_version)
        if as_json:
            typer.echo(json.dumps({**asdict(description), "multiply_adds": description.multiply_adds}))
        else:
            from glimpse.client.commands.render import print_description

            print_description(description)


@server_options
def health(server: ServerOptions, as_json: AsJson = False) -> None:
    """Ask whether a server is alive and takes images. The exit code is 0 only if it does, and 3 otherwise.

    With --wait, it is asked until it takes images or --timeout has passed. Where the target has several addresses, one
    of them is asked.
    """
    with server.client(waits=False) as client:
        state = None
        if server.wait:
            from glimpse.client.commands.waiting import wait_until_serving

            state = wait_until_serving(client, seconds=server.timeout)
        if state is None:
            state = client.health()
        if as_json:
            typer.echo(json.dumps(asdict(state)))
        else:
            typer.echo(f"live   {state.live}\nready  {state.ready}")
    if not state.serving:
        raise typer.Exit(exits.Exit.NO_SERVER)
