"""Weights: reading tensors from files of many formats, and loading them into a network by name.

`load` takes any file that `read` can; `save` writes safetensors with our own names. Keras is loaded with what needs it,
not before: the process in which files are read does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimpse.models.weights.errors import WeightsError, WeightsMismatchError
from glimpse.models.weights.files import read

if TYPE_CHECKING:
    from glimpse.models.weights.identification import likely_networks
    from glimpse.models.weights.native import save
    from glimpse.models.weights.transfer import load, transfer

__all__ = ["WeightsError", "WeightsMismatchError", "likely_networks", "load", "read", "save", "transfer"]
_WITH_KERAS = {"likely_networks": "identification", "save": "native", "load": "transfer", "transfer": "transfer"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_KERAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"glimpse.models.weights.{_WITH_KERAS[name]}"), name)
