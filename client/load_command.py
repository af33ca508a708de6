"""The command that puts load on a server and says what became of it."""

# ruff: noqa: PLR0917  (typer calls this function, with every argument by its name)
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glimpse.client import exits
from glimpse.client.asking import Model, ModelVersion
from glimpse.client.connecting import Server, connecting
from glimpse.client.images import find, nothing_in
from glimpse.client.load_options import Sending, Shape, Telling, Wanted, sending, shaped, telling, wanting
from glimpse.client.standard import OutputError

if TYPE_CHECKING:
    from glimpse.client.load.pictures import Pictures
    from glimpse.client.load.plan import Plan
    from glimpse.client.results import ModelDescription

_FIRST_RATE = 10.0  # of a knee search, requests a second


@connecting
@shaped
@sending
@wanting
@telling
def load(
    told: Telling,
    wanted: Wanted,
    sent: Sending,
    shape: Shape,
    server: Server,
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTO",
            help="Files, folders, patterns, sent by chance; small raw pictures when left out.",
            show_default=False,
        ),
    ] = None,
    model: Model = "",
    model_version: ModelVersion = "",
) -> None:
    """Put load on a server, and say how it did.

    One caller for 10 seconds, unless another load is asked for. Latencies of an open loop count from when a request was
    due, so that a server that stalls cannot hide it. Refused requests are not repeated.

    The exit code is 0 only if no image failed. A --threshold on errors says how many may.
    """
    if wanted.find_knee and (shape.callers or shape.ramp or shape.scenario):
        raise typer.BadParameter(
            "It raises the rate by itself; give the first --rate, or none.", param_hint="--find-knee"
        )
    if shape.scenario and wanted.thresholds:
        raise typer.BadParameter("The file has those of each phase.", param_hint="--threshold")
    with server.client() as client:
        described = client.describe(model=model, version=model_version)
        report = _run(
            told=told,
            wanted=wanted,
            sent=sent,
            plans=_plans(shape, sent, wanted, server),
            server=server,
            described=described,
            pictures=_pictures(photos, described, sent.seed),
            model=model,
            version=model_version,
        )
        if wanted.find_knee:
            from glimpse.client.load import text

            typer.echo(text.knee(report))
        _write(told, report)
    if any(phase["stopped"] for phase in report["phases"]):
        raise typer.Exit(exits.Exit.INTERRUPTED)
    _judge(report)


def _judge(report: dict[str, Any]) -> None:
    """End the command with the code of what was missed or failed.

    Raises:
        typer.Exit: something was.
    """
    from glimpse.client.load.report import failures, missed

    if missed(report):
        typer.echo("A threshold was missed." if report["knee"] is None else "No rate held.", err=True)
        raise typer.Exit(exits.Exit.MISSED)
    failed, images = failures(report)
    if failed:
        typer.echo(
            f"{failed:,} of {images:,} images failed. A threshold such as --threshold 'errors < 1%' says how many may.",
            err=True,
        )
        raise typer.Exit(exits.Exit.IMAGES_FAILED)


def _run(
    *,
    told: Telling,
    wanted: Wanted,
    sent: Sending,
    plans: list[Plan],
    server: Server,
    described: ModelDescription,
    pictures: Pictures,
    model: str,
    version: str,
) -> dict[str, Any]:
    from glimpse.client.load import report, text
    from glimpse.client.load.live import watching
    from glimpse.client.load.session import Session

    started = report.now()
    with watching(quiet=told.quiet) as watch:

        def done(figures: dict[str, Any]) -> None:
            watch.end()
            if not wanted.find_knee:
                typer.echo(text.phase(figures))

        session = Session(
            connection=server.connection(),
            pictures=pictures,
            connections=sent.connections,
            retries=sent.retries,
            model=model,
            version=version,
            seed=sent.seed,
            watch=watch,
            done=done,
        )
        if wanted.slo is None:
            phases, rate = session.phases(plans), None
        else:
            phases, rate = session.find_knee(plans[0], slo=wanted.slo / 1000, max_errors=wanted.max_errors)
    whole = report.whole(phases, target=server.target, images=_said(pictures), described=described, started=started)
    if wanted.slo is None:
        return whole
    return report.with_knee(whole, rate, slo=wanted.slo / 1000, max_errors=wanted.max_errors)


def _plans(shape: Shape, sent: Sending, wanted: Wanted, server: Server) -> list[Plan]:
    """The phases that the options ask for.

    Raises:
        typer.BadParameter: they cannot be used as they are.
    """
    from glimpse.client.load import pacing, scenario
    from glimpse.client.load.plan import Plan
    from glimpse.client.load.thresholds import parse

    try:
        if shape.scenario is not None:
            return scenario.read(shape.scenario, timeout=server.timeout)
        common: dict[str, Any] = {
            "steady": shape.steady,
            "images_per_call": sent.images_per_call,
            "bad": sent.bad,
            "stream": sent.stream,
            "window": sent.window,
            "timeout": server.timeout,
            "thresholds": tuple(map(parse, wanted.thresholds)),
        }
        if shape.ramp is not None:
            rates = pacing.steps(*shape.ramp, shape.steps)
            each = shape.seconds / len(rates)
            # Only the first step has to warm anything up.
            warm_ups = (shape.warm_up, *(0.0 for _ in rates[1:]))
            return [
                Plan(name=f"{rate:.4g}/s", rate=rate, duration=each, warm_up=warm_up, **common)
                for rate, warm_up in zip(rates, warm_ups, strict=True)
            ]
        return [
            Plan(
                rate=shape.rate or (_FIRST_RATE if wanted.find_knee else 0.0),
                callers=shape.callers or 1,
                duration=shape.seconds,
                requests=shape.requests or 0,
                warm_up=shape.warm_up,
                **common,
            )
        ]
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _pictures(photos: list[str] | None, described: ModelDescription, seed: int) -> Pictures:
    """What is sent, read before the clock starts.

    Raises:
        typer.BadParameter: a photo cannot be read.
    """
    from glimpse.client.errors import ImageRefusedError
    from glimpse.client.load import pictures

    if not photos:
        return pictures.made(described.input.height, described.input.width, seed)
    try:
        return pictures.of_files(find(photos))
    except IsADirectoryError as error:
        raise typer.BadParameter(nothing_in(os.fspath(error.filename)), param_hint="PHOTO") from error
    except (OSError, ValueError, ImageRefusedError) as error:
        raise typer.BadParameter(str(error), param_hint="PHOTO") from error


def _said(pictures: Pictures) -> str:
    kind = "photo" if pictures.good[0].HasField("encoded") else "raw picture"
    if len(pictures.good) > 1:
        kind += "s"
    left_out = f" ({pictures.left_out:,} more had no room)" if pictures.left_out else ""
    return f"{len(pictures.good):,} {kind} of {pictures.mean_bytes / 1024:,.1f} KiB on average{left_out}"


def _write(told: Telling, report: dict[str, Any]) -> None:
    if told.json is not None:
        _to(told.json, json.dumps(report, indent=1) + "\n")
    if told.html is not None:
        from glimpse.client.load.page import page

        _to(told.html, page(report))


def _to(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
