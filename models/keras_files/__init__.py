"""Whole Keras models: files with a network of their own, which need not be in the library."""

from __future__ import annotations

from glimpse.models.keras_files.loading import load

__all__ = ["load"]
