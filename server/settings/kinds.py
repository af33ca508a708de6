"""Kinds of values that settings are of."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

MIB = 1024 * 1024
_LONGEST = 200  # characters of a value that are shown

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False)]
RuntimeName = Literal["auto", "tensorflow", "openvino", "jax", "torch"]
Precision = Literal["auto", "float32", "bfloat16"]


def json_object(value: Any) -> Any:
    """An object as a flag or a variable writes it: JSON.

    Raises:
        ValueError: it is text that is no JSON, or JSON of something else.
    """
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value) if value.strip() else {}
    except RecursionError:
        raise ValueError(f'must be JSON such as {{"alpha": 0.25}}, not as deep. Received: {_shown(value)}') from None
    except ValueError as error:
        found = _joined(value)
        if found is None:
            raise ValueError(f'must be JSON such as {{"alpha": 0.25}}: {error}. Received: {_shown(value)}') from None
    if not isinstance(found, dict):
        raise ValueError(f'must be an object such as {{"alpha": 0.25}}. Received: {_shown(value)}')  # noqa: TRY004  (pydantic's)
    return found


def _shown(value: str) -> str:
    return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r} and more"


def _joined(value: str) -> dict[str, Any] | None:
    """All that a flag says which is given several times, with commas between; None: these are no objects."""
    try:
        found = json.loads(f"[{value}]")
    except ValueError:
        return None
    if not all(isinstance(each, dict) for each in found):
        return None
    return {name: each[name] for each in found for name in each}


def split(value: Any) -> Any:
    """A list as a flag or a variable writes it: words between commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
