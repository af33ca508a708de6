"""Types of the values of settings, and how text is read into them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from glimpse.server.runtimes import Precision, RuntimeName

MIB = 1024 * 1024
_LONGEST = 200  # characters of a value that are shown

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False)]
RuntimeChoice = Literal["auto", RuntimeName]
PrecisionChoice = Literal["auto", Precision]


def json_object(value: Any) -> Any:
    """Read an object from a flag or a variable, where it is JSON.

    Raises:
        ValueError: the text is not JSON, or JSON of something other than an object.
    """
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value) if value.strip() else {}
    except RecursionError:
        raise ValueError(
            f'must be JSON such as {{"alpha": 0.25}}, nested less deeply. Received: {_shown(value)}'
        ) from None
    except ValueError as error:
        found = _joined(value)
        if found is None:
            raise ValueError(f'must be JSON such as {{"alpha": 0.25}}: {error}. Received: {_shown(value)}') from None
    if not isinstance(found, dict):
        raise ValueError(f'must be a JSON object such as {{"alpha": 0.25}}. Received: {_shown(value)}')  # noqa: TRY004  (pydantic's)
    return found


def _shown(value: str) -> str:
    return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r} and more"


def _joined(value: str) -> dict[str, Any] | None:
    """The objects of a flag that is given several times, which arrive with commas between; None if it is none."""
    try:
        found = json.loads(f"[{value}]")
    except ValueError:
        return None
    if not all(isinstance(each, dict) for each in found):
        return None
    return {name: each[name] for each in found for name in each}


def split(value: Any) -> Any:
    """Read a list from a flag or a variable, where it is words with commas between."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def pairs(value: Any) -> Any:
    """Read names with values from a flag or a variable, where they are ``name=value`` with commas between.

    Raises:
        ValueError: a name is empty.
    """
    if not isinstance(value, str):
        return value
    found = [word.partition("=")[::2] for word in split(value)]
    if not all(name.strip() for name, _ in found):
        raise ValueError(f"must be names with commas between, such as photos=resnet50. Received: {_shown(value)}")
    return {name.strip(): other.strip() for name, other in found}
