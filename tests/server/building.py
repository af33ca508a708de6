"""Runtimes as a server builds them, without its warm-up and golden check."""

from __future__ import annotations

from glimpse.models.bundle import Bundle
from glimpse.server.runtime import builder, selection
from glimpse.server.runtime.builder import BuiltRuntime
from glimpse.server.runtime.importing import import_model
from glimpse.server.runtimes import RUNTIMES, RuntimeName
from glimpse.server.settings.kinds import PrecisionChoice


def build(bundle: Bundle, *names: RuntimeName, precision: PrecisionChoice = "auto") -> BuiltRuntime:
    """The first of the runtimes that the bundle can be imported for and that can compute it."""
    return selection.first(names, lambda name: builder.build(import_model(bundle, RUNTIMES[name]), precision=precision))
