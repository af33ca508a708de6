"""Kinds of values that settings are of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

MIB = 1024 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400 * 365, allow_inf_nan=False)]
RuntimeName = Literal["auto", "tensorflow", "openvino", "jax", "torch"]
Precision = Literal["auto", "float32", "bfloat16"]


def split(value: Any) -> Any:
    """A list as a flag or a variable writes it: words between commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
