"""The options of `glimpse load`, in groups. Nothing here loads what runs a load: `--help` needs none of it."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glimpse.client.options import given, to_write

_DURATION = 10.0  # seconds, where neither a duration nor a number of requests is given


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests come."""

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
class Sending:
    """What requests are made of, and how they travel."""

    images_per_call: int
    bad: float
    stream: bool
    window: int
    retries: bool
    connections: int
    seed: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be reached, and whether the highest rate that does is looked for."""

    thresholds: tuple[str, ...]
    find_knee: bool
    slo: float | None  # milliseconds
    max_errors: float


@dataclass(frozen=True, slots=True)
class Telling:
    """Where reports go."""

    json: Path | None
    html: Path | None
    quiet: bool


def _shape(
    callers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Closed loop: so many, each with one request at a time. Default: 1."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", min=0.001, help="Open loop: requests a second, whatever the answers do."),
    ] = None,
    steady: Annotated[
        bool, typer.Option("--steady", help="Open loop: at equal distances, not as independent callers come.")
    ] = False,
    ramp: Annotated[
        str | None, typer.Option(metavar="FROM:TO", help="Open loop: from one rate to another, in --steps.")
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of a ramp, each of them its share of --duration.")
    ] = 5,
    duration: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="How long; of a knee search, each trial. Default: 10."),
    ] = None,
    requests: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after so many requests.")] = None,
    warm_up: Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="Before it, sent and not counted.")] = 1.0,
    scenario: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Phases, one after the other, with what each has to reach.")
    ] = None,
) -> Shape:
    if sum(each is not None for each in (callers, rate, ramp, scenario)) > 1:
        raise typer.BadParameter("Load comes by one of --callers, --rate, --ramp and --scenario.")
    if scenario is not None and (duration is not None or requests is not None or steady):
        raise typer.BadParameter("The file says how long and how.", param_hint="--scenario")
    if ramp is not None and requests is not None:
        raise typer.BadParameter("A ramp ends after its --duration.", param_hint="--requests")
    if steady and rate is None and ramp is None:
        raise typer.BadParameter("It belongs to --rate and --ramp.", param_hint="--steady")
    return Shape(callers, rate, steady, _ends(ramp), steps, duration, requests, warm_up, scenario)


def _ends(ramp: str | None) -> tuple[float, float] | None:
    if ramp is None:
        return None
    try:
        first, last = map(float, ramp.split(":"))
    except ValueError:
        raise typer.BadParameter(f"Two rates are written as 10:200. Received: {ramp}", param_hint="--ramp") from None
    if not (0 < first < float("inf") and 0 < last < float("inf")):
        raise typer.BadParameter(f"Rates are above 0. Received: {ramp}", param_hint="--ramp")
    return first, last


def _sending(
    images_per_call: Annotated[int, typer.Option(metavar="N", min=1, help="Images in a request.")] = 1,
    bad: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.0, max=1.0, help="Share of images broken on purpose, whose errors are expected."
        ),
    ] = 0.0,
    stream: Annotated[bool, typer.Option("--stream", help="Over ClassifyStream; each caller is a stream.")] = False,
    window: Annotated[int, typer.Option(metavar="N", min=1, help="Requests of a stream without an answer yet.")] = 16,
    retries: Annotated[
        bool, typer.Option("--retries", help="Repeat refused calls as the client does; a load test does not.")
    ] = False,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="To a server without tokens, each is a caller of its own.")
    ] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="Equal seeds send the same, at the same times.")] = 0,
) -> Sending:
    if stream and retries:
        raise typer.BadParameter("It belongs to Classify; nothing is repeated on a stream.", param_hint="--retries")
    return Sending(images_per_call, bad, stream, window, retries, connections, seed)


def _wanted(
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="'p99 < 200 ms', 'errors < 0.1%', 'images > 50/s': missed ones are exit code 11."
        ),
    ] = None,
    find_knee: Annotated[
        bool, typer.Option("--find-knee", help="Look for the highest rate that holds --slo; --rate is the first one.")
    ] = False,
    slo: Annotated[float | None, typer.Option(metavar="MILLISECONDS", min=0.001, help="What p99 may take.")] = None,
    max_errors: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.0, max=1.0, help="Share of images that may fail at a rate that holds."),
    ] = 0.001,
) -> Wanted:
    if find_knee != (slo is not None):
        raise typer.BadParameter("They come together.", param_hint="--find-knee and --slo")
    if find_knee and threshold:
        raise typer.BadParameter("A search has --slo and --max-errors.", param_hint="--threshold")
    return Wanted(tuple(threshold or ()), find_knee, slo, max_errors)


def _telling(
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there, for programs.")
    ] = None,
    as_html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots there, in one file.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while it runs.")] = False,
) -> Telling:
    to_write(as_json, "--json")
    to_write(as_html, "--html")
    return Telling(as_json, as_html, quiet)


shaped, sending, wanting, telling = given(_shape), given(_sending), given(_wanted), given(_telling)
