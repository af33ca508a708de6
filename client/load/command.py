"""The command that puts load on a server and says what became of it."""

# ruff: noqa: PLR0917  (typer calls this function, with every argument by its name)
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glimpse.client.commands import exits
from glimpse.client.commands.find_images import find, why_not_found
from glimpse.client.commands.option_groups import explain
from glimpse.client.commands.request_options import Model, ModelVersion
from glimpse.client.commands.server_options import ServerOptions, server_options
from glimpse.client.commands.standard import OutputError
from glimpse.client.load.options import (
    ArrivalOptions,
    ReportOptions,
    ThresholdOptions,
    TrafficOptions,
    arrival_options,
    report_options,
    threshold_options,
    traffic_options,
)
from glimpse.client.nouns import noun

if TYPE_CHECKING:
    from glimpse.client.load.images import Pictures
    from glimpse.client.load.plan import Plan
    from glimpse.client.results import ModelDescription

_FIRST_RATE = 10.0  # of a knee search, requests a second


@server_options
@report_options
@threshold_options
@traffic_options
@arrival_options
def load(
    arrivals: ArrivalOptions,
    traffic: TrafficOptions,
    goals: ThresholdOptions,
    reports: ReportOptions,
    server: ServerOptions,
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTO",
            help="Files, folders and patterns, from which each request takes one at random. Without them, small random "
            "images are made that cost the server no decoding.",
            show_default=False,
        ),
    ] = None,
    model: Model = "",
    model_version: ModelVersion = "",
) -> None:
    """Test a server under load, and report its throughput and latency.

    Without options, one caller sends requests for 10 seconds. Latencies of an open loop count from the moment at which
    a request was due, so a server that stalls cannot hide it. Refused requests are not repeated.

    The exit code is 0 only if no image failed; a --threshold on errors says how many may.
    """
    if goals.find_knee and (arrivals.callers or arrivals.ramp or arrivals.scenario):
        raise typer.BadParameter(
            "It raises the rate by itself; only --rate goes with it.",
            param_hint="--find-knee",
        )
    if arrivals.scenario and goals.thresholds:
        raise typer.BadParameter("Thresholds stand in the scenario file, for each phase.", param_hint="--threshold")
    with server.client() as client:
        described = client.describe(model=model, version=model_version)
        report = _run(
            reports=reports,
            goals=goals,
            traffic=traffic,
            plans=_plans(arrivals, traffic, goals, server),
            server=server,
            described=described,
            pictures=_pictures(photos, described, traffic.seed, server.max_message_bytes),
            model=model,
            version=model_version,
        )
        if goals.find_knee:
            from glimpse.client.load import text_report

            typer.echo(text_report.knee(report))
        _write(reports, report)
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
            f"{failed:,} of {images:,} {noun(images, 'image')} failed. A threshold such as --threshold 'errors < 1%' "
            "says how many may.",
            err=True,
        )
        raise typer.Exit(exits.Exit.IMAGES_FAILED)


def _run(
    *,
    reports: ReportOptions,
    goals: ThresholdOptions,
    traffic: TrafficOptions,
    plans: list[Plan],
    server: ServerOptions,
    described: ModelDescription,
    pictures: Pictures,
    model: str,
    version: str,
) -> dict[str, Any]:
    from glimpse.client.load import report, text_report
    from glimpse.client.load.live import watching
    from glimpse.client.load.processes import Processes, Share
    from glimpse.client.load.sender import Sender
    from glimpse.client.load.session import Session

    started = report.now()
    with watching(quiet=reports.quiet) as watch, ExitStack() as stack:

        def done(figures: dict[str, Any]) -> None:
            watch.end()
            if not goals.find_knee:
                typer.echo(text_report.phase(figures))

        stack.enter_context(by_load_processes())
        sender: Sender | Processes
        if traffic.processes > 1:
            share = Share(
                connection=server.connection(),
                pictures=pictures.serialized(),
                connections=traffic.connections,
                retries=traffic.retries,
                model=model,
                version=version,
                seed=traffic.seed,
                processes=traffic.processes,
            )
            sender = stack.enter_context(Processes(traffic.processes, share))
        else:
            sender = Sender(
                connection=server.connection(),
                pictures=pictures,
                connections=traffic.connections,
                retries=traffic.retries,
                model=model,
                version=version,
                seed=traffic.seed,
                watch=watch,
            )
        session = Session(sender=sender, done=done)
        if goals.slo is None:
            phases, rate = session.phases(plans), None
        else:
            phases, rate = session.find_knee(plans[0], slo=goals.slo / 1000, max_errors=goals.max_errors)
    whole = report.whole(phases, target=server.target, images=_said(pictures), described=described, started=started)
    if goals.slo is None:
        return whole
    return report.with_knee(whole, rate, slo=goals.slo / 1000, max_errors=goals.max_errors)


@contextmanager
def by_load_processes() -> Iterator[None]:
    """Turn the failure of a process of callers into a message on stderr and an exit code.

    Raises:
        typer.Exit: in place of a LoadProcessError.
    """
    from glimpse.client.load.processes import LoadProcessError

    try:
        yield
    except LoadProcessError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exits.Exit.IMAGES_FAILED) from error


def _plans(
    arrivals: ArrivalOptions, traffic: TrafficOptions, goals: ThresholdOptions, server: ServerOptions
) -> list[Plan]:
    """The phases that the options ask for, seen to be divisible among the processes.

    Raises:
        typer.BadParameter: they cannot be used as they are.
    """
    plans = _whole_plans(arrivals, traffic, goals, server)
    if traffic.processes > 1:
        from glimpse.client.load.processes import shares

        try:
            for plan in plans:
                shares(plan, traffic.processes)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--processes") from error
    return plans


def _whole_plans(
    arrivals: ArrivalOptions, traffic: TrafficOptions, goals: ThresholdOptions, server: ServerOptions
) -> list[Plan]:
    """The phases that the options ask for.

    Raises:
        typer.BadParameter: they cannot be used as they are.
    """
    from glimpse.client.load import pacing, scenario
    from glimpse.client.load.plan import Plan
    from glimpse.client.load.thresholds import parse

    try:
        if arrivals.scenario is not None:
            return scenario.read(arrivals.scenario, timeout=server.timeout)
        common: dict[str, Any] = {
            "steady": arrivals.steady,
            "images_per_call": traffic.images_per_call,
            "bad": traffic.bad,
            "stream": traffic.stream,
            "window": traffic.window,
            "timeout": server.timeout,
            "thresholds": tuple(map(parse, goals.thresholds)),
        }
        if arrivals.ramp is not None:
            rates = pacing.steps(*arrivals.ramp, arrivals.steps)
            each = arrivals.seconds / len(rates)
            # Only the first step has to warm anything up.
            warm_ups = (arrivals.warm_up, *(0.0 for _ in rates[1:]))
            return [
                Plan(name=f"{rate:.4g}/s", rate=rate, duration=each, warm_up=warm_up, **common)
                for rate, warm_up in zip(rates, warm_ups, strict=True)
            ]
        return [
            Plan(
                rate=arrivals.rate or (_FIRST_RATE if goals.find_knee else 0.0),
                callers=arrivals.callers or 1,
                duration=arrivals.seconds,
                requests=arrivals.requests or 0,
                warm_up=arrivals.warm_up,
                **common,
            )
        ]
    except (OSError, ValueError) as error:
        raise typer.BadParameter(explain(error)) from error


def _pictures(photos: list[str] | None, described: ModelDescription, seed: int, max_message_bytes: int) -> Pictures:
    """What is sent, read before the clock starts.

    Raises:
        typer.BadParameter: a photo cannot be read.
    """
    from glimpse.client.errors import ImageRefusedError
    from glimpse.client.load import images as load_images

    if not photos:
        return load_images.made(described.input.height, described.input.width, seed, described.input.channels)
    try:
        return load_images.of_files(find(photos), max_message_bytes)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise typer.BadParameter(why_not_found(os.fspath(error.filename)), param_hint="PHOTO") from error
    except ImageRefusedError as error:
        raise typer.BadParameter(error.message, param_hint="PHOTO") from error
    except (OSError, ValueError) as error:
        raise typer.BadParameter(explain(error), param_hint="PHOTO") from error


def _said(pictures: Pictures) -> str:
    kind = "photo" if pictures.good[0].HasField("encoded") else "raw picture"
    if len(pictures.good) > 1:
        kind += "s"
    left_out = f" ({pictures.left_out:,} more had no room)" if pictures.left_out else ""
    return f"{len(pictures.good):,} {kind} of {pictures.mean_bytes / 1024:,.1f} KiB on average{left_out}"


def _write(reports: ReportOptions, report: dict[str, Any]) -> None:
    if reports.json is not None:
        _to(reports.json, json.dumps(report, indent=1) + "\n")
    if reports.html is not None:
        from glimpse.client.load.html_report import page

        _to(reports.html, page(report))


def _to(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
