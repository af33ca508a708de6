"""Scenario files: phases that run one after the other, with what each has to reach. TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from glimpse.client import texts
from glimpse.client.load.plan import Plan
from glimpse.client.load.thresholds import parse
from glimpse.client.suggestions import did_you_mean

_KINDS: dict[str, type] = {
    "name": str,
    "callers": int,
    "rate": float,
    "steady": bool,
    "duration": float,
    "requests": int,
    "warm_up": float,
    "images_per_call": int,
    "bad": float,
    "stream": bool,
    "window": int,
    "timeout": float,
    "thresholds": list,
}
_SAID = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}


def read(path: Path, *, timeout: float) -> list[Plan]:
    """The phases of a file, in its order. ``[defaults]`` holds for every ``[[phase]]`` that does not say otherwise.

    Args:
        path: of the file.
        timeout: seconds for an answer where the file says nothing.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TOML, or a key or value is none that a phase has.
    """
    try:
        values = tomllib.loads(texts.decode(path.read_bytes()))
    except ValueError as error:  # of TOML or of UTF-8
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply.") from None
    if unknown := set(values) - {"defaults", "phase"}:
        meant = did_you_mean(min(unknown), ("defaults", "phase"))
        raise ValueError(
            f"{path} has {', '.join(sorted(unknown))}; a scenario has [defaults] and [[phase]] alone.{meant}"
        )
    phases = values.get("phase")
    if not isinstance(phases, list) or not phases:
        raise ValueError(f"{path} has no [[phase]].")
    defaults = {"timeout": timeout, **_checked(values.get("defaults", {}), f"{path}, defaults")}
    plans = []
    for number, phase in enumerate(phases, start=1):
        where = f"{path}, phase {number}"
        own = _checked(phase, where)
        # One way to come and one way to end: a phase's own replaces the one of the defaults.
        inherited = {
            key: value
            for key, value in defaults.items()
            if not (key == "rate" and "callers" in own) and not (key == "duration" and "requests" in own)
        }
        chosen: dict[str, Any] = {"name": f"phase {number}", **inherited, **own}
        chosen["thresholds"] = tuple(_thresholds(chosen.get("thresholds", []), where))
        try:
            plans.append(Plan(**chosen))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return plans


def _checked(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a table.")  # noqa: TRY004  (all that is wrong with a file is a ValueError)
    for key, value in values.items():
        if key not in _KINDS:
            raise ValueError(f"{where} has {key!r}, which is not an option of a phase.{did_you_mean(key, _KINDS)}")
        kind = _KINDS[key]
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}: {key} has to be {_SAID[kind]}. Received: {value!r}.")
    return values


def _thresholds(texts: list[Any], where: str) -> list[Any]:
    try:
        return [parse(text if isinstance(text, str) else repr(text)) for text in texts]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
