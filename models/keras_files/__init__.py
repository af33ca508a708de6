"""A saved model of the user's own: a file of Keras with an architecture that the library need not know."""

from __future__ import annotations

from glimpse.models.keras_files.loading import load

__all__ = ["load"]
