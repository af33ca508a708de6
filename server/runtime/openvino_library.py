"""OpenVINO, imported so that it tells nobody: whoever needs it takes it from here."""

from __future__ import annotations

import functools
import sys
from typing import Any

# Merely importing openvino reports to Google Analytics, and so does each conversion, unless the user of the account has
# opted out. A server tells nobody: without this package openvino reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is Python's word for "not there"

# OpenVINO's converter takes two thirds of the time of its import, and a server whose network is in its cache converts
# nothing. It is loaded by the first conversion.
_CONVERTER = "openvino.tools.ovc"
_skipped = sys.modules.setdefault(_CONVERTER, None) is None  # type: ignore[arg-type]

import openvino  # noqa: E402 - not before the lines above
from openvino import opset13 as ops  # noqa: E402

if _skipped:
    del sys.modules[_CONVERTER]

    def _convert_model(*arguments: Any, **options: Any) -> Any:
        """`openvino.convert_model`, for whoever uses OpenVINO in this process."""
        from openvino.tools.ovc import convert_model

        return convert_model(*arguments, **options)

    openvino.convert_model = _convert_model


@functools.cache
def core() -> openvino.Core:
    """The one of this process, which lives as long as the process does. Its methods may be called from any thread.

    Each `openvino.Core` replaces the stack on which the thread that makes it handles signals, and puts back the one it
    found when it goes. Of two that go in the order in which they came, the second puts back a stack that the first has
    freed, and the next signal, SIGTERM for example, ends the process with a segmentation fault (OpenVINO 2026.1).
    """
    return openvino.Core()


__all__ = ["core", "openvino", "ops"]
