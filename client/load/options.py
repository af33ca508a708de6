"""The options of `glimpse load`, in groups. Nothing here loads what runs a load: `--help` needs none of it."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glimpse.client.commands.option_groups import option_group, refuse_image_name

# Sections of the help.
_LOAD, _REQUESTS, _THRESHOLDS, _REPORTS = "Load", "Requests", "Thresholds", "Reports"
_DURATION = 10.0  # seconds, where neither a duration nor a number of requests is given


@dataclass(frozen=True, slots=True)
class ArrivalOptions:
    """When requests are sent, and for how long."""

    callers: int | None
    rate: float | None
    steady: bool
    ramp: tuple[float, float] | None
    steps: int
    duration: float | None
    requests: int | None
    warm_up: float
    scenario: Path | None

    @property
    def seconds(self) -> float:
        """Of the load; endless where a number of requests ends it."""
        if self.duration is not None:
            return self.duration
        return float("inf") if self.requests else _DURATION


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """What requests hold, and how they are sent."""

    images_per_call: int
    bad: float
    stream: bool
    window: int
    retries: bool
    connections: int
    processes: int
    seed: int


@dataclass(frozen=True, slots=True)
class ThresholdOptions:
    """What has to be reached, and whether the highest rate that reaches it is searched for."""

    thresholds: tuple[str, ...]
    find_knee: bool
    slo: float | None  # milliseconds
    max_errors: float


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Where reports are written."""

    json: Path | None
    html: Path | None
    quiet: bool


def _arrival_options(
    callers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Closed loop: N callers, each of which sends its next request when it has its answer. Default: 1.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            min=0.001,
            help="Open loop: R requests a second, however fast the server answers them.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    steady: Annotated[
        bool,
        typer.Option(
            "--steady",
            help="With --rate or --ramp: send at equal intervals. Without it, requests come at random, as from "
            "independent callers.",
            rich_help_panel=_LOAD,
        ),
    ] = False,
    ramp: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO",
            help="Open loop: raise the rate from FROM to TO requests a second.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of rates of a --ramp, which share --duration equally.",
            rich_help_panel=_LOAD,
        ),
    ] = 5,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="How long to send; with --find-knee, how long for each rate. Default: 10.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Stop after N requests instead of after a duration.", rich_help_panel=_LOAD
        ),
    ] = None,
    warm_up: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, help="How long to send before that without counting.", rich_help_panel=_LOAD
        ),
    ] = 1.0,
    scenario: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read phases, each with its load and its thresholds, from this TOML file.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
) -> ArrivalOptions:
    if sum(each is not None for each in (callers, rate, ramp, scenario)) > 1:
        raise typer.BadParameter("Give only one of --callers, --rate, --ramp and --scenario.")
    if scenario is not None and (duration is not None or requests is not None or steady):
        raise typer.BadParameter(
            "--duration, --requests and --steady stand in the scenario file.", param_hint="--scenario"
        )
    if ramp is not None and requests is not None:
        raise typer.BadParameter("A ramp ends after its --duration.", param_hint="--requests")
    if steady and rate is None and ramp is None:
        raise typer.BadParameter("It needs --rate or --ramp.", param_hint="--steady")
    return ArrivalOptions(callers, rate, steady, _ends(ramp), steps, duration, requests, warm_up, scenario)


def _ends(ramp: str | None) -> tuple[float, float] | None:
    if ramp is None:
        return None
    try:
        first, last = map(float, ramp.split(":"))
    except ValueError:
        raise typer.BadParameter(
            f"A ramp is two rates, written as 10:200. Received: {ramp}", param_hint="--ramp"
        ) from None
    if not (0 < first < float("inf") and 0 < last < float("inf")):
        raise typer.BadParameter(f"Rates are above 0. Received: {ramp}", param_hint="--ramp")
    return first, last


def _traffic_options(
    images_per_call: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many images each request holds.", rich_help_panel=_REQUESTS)
    ] = 1,
    bad: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Break this share of the images on purpose, 0 to 1. That they are refused does not count as an error.",
            rich_help_panel=_REQUESTS,
        ),
    ] = 0.0,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Send over ClassifyStream instead of Classify; each caller is then a stream.",
            rich_help_panel=_REQUESTS,
        ),
    ] = False,
    window: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="With --stream: how many requests of a stream may be unanswered.",
            rich_help_panel=_REQUESTS,
        ),
    ] = 16,
    retries: Annotated[
        bool,
        typer.Option(
            "--retries",
            help="Repeat refused calls as the client does. Without it, a refused request is counted as an error.",
            rich_help_panel=_REQUESTS,
        ),
    ] = False,
    connections: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="How many connections to open. For a server without tokens, "
            "all are of one caller, each with a queue of its own.",
            rich_help_panel=_REQUESTS,
        ),
    ] = 4,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="How many processes send; callers, rates, requests and connections are divided among them. One "
            "process uses one core at most.",
            rich_help_panel=_REQUESTS,
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Runs with the same seed send the same requests at the same times.",
            rich_help_panel=_REQUESTS,
        ),
    ] = 0,
) -> TrafficOptions:
    if stream and retries:
        raise typer.BadParameter(
            "It works without --stream only; nothing is repeated on a stream.", param_hint="--retries"
        )
    return TrafficOptions(images_per_call, bad, stream, window, retries, connections, processes, seed)


def _threshold_options(
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What has to be reached, such as 'p99 < 200 ms', 'errors < 0.1%' or 'images > 50/s'. A missed "
            "threshold is exit code 11. The option may be given several times.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None,
    find_knee: Annotated[
        bool,
        typer.Option(
            "--find-knee",
            help="Search for the highest rate that keeps to --slo, beginning with --rate if it is given.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = False,
    slo: Annotated[
        float | None,
        typer.Option(
            metavar="MILLISECONDS",
            min=0.001,
            help="With --find-knee: the highest p99 latency allowed.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None,
    max_errors: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="With --find-knee: the share of images that may fail, 0 to 1.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = 0.001,
) -> ThresholdOptions:
    if find_knee != (slo is not None):
        raise typer.BadParameter("Each of the two needs the other.", param_hint="--find-knee and --slo")
    if find_knee and threshold:
        raise typer.BadParameter("With --find-knee, give --slo and --max-errors instead.", param_hint="--threshold")
    return ThresholdOptions(tuple(threshold or ()), find_knee, slo, max_errors)


def _report_options(
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write all figures to this file, for programs.", rich_help_panel=_REPORTS
        ),
    ] = None,
    as_html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with plots to this file.", rich_help_panel=_REPORTS),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing while the test runs.", rich_help_panel=_REPORTS)
    ] = False,
) -> ReportOptions:
    for path, option in ((as_json, "--json"), (as_html, "--html")):
        refuse_image_name(path, option)
        if path is not None and not path.absolute().parent.is_dir():  # else it would be known after the test
            raise typer.BadParameter(f"There is no folder {path.parent}.", param_hint=option)
    return ReportOptions(as_json, as_html, quiet)


arrival_options = option_group(_arrival_options)
traffic_options = option_group(_traffic_options)
threshold_options = option_group(_threshold_options)
report_options = option_group(_report_options)
