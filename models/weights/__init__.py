"""Weights: reading them from where people have them, and setting a network's by role, never by position.

`load` takes any file that `read` can; `save` writes safetensors with our own names.
"""

from __future__ import annotations

from models.weights.errors import WeightsError, WeightsMismatchError
from models.weights.files import read
from models.weights.guess import told
from models.weights.native import save
from models.weights.transfer import load, transfer

__all__ = ["WeightsError", "WeightsMismatchError", "load", "read", "save", "told", "transfer"]
