"""OpenVINO, imported so that it tells nobody: whoever needs it takes it from here."""

from __future__ import annotations

import sys

# Merely importing openvino reports to Google Analytics, and so does each conversion, unless the user of the account has
# opted out. A server tells nobody: without this package openvino reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is Python's word for "not there"

import openvino  # noqa: E402 - not before the line above
from openvino import opset13 as ops  # noqa: E402

__all__ = ["openvino", "ops"]
