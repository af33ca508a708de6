"""The error that a model cannot be used, whichever part of its bundle is at fault."""

from __future__ import annotations


class BundleError(ValueError):
    """A bundle cannot be used as it is; the message says which one, why, and what to do."""
