"""Plots of a training: what is drawn where it cannot be drawn as it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glimpse.models.train import plots

pytest.importorskip("matplotlib", reason="plots need the packages of training")


def test_a_class_that_the_font_cannot_write_has_its_number(tmp_path: Path) -> None:
    """Boxes would be drawn in its place, with a warning for each character."""
    assert plots.drawable(["$5", "café", "日本語", "ok"]) == ["$5", "café", "class 2", "ok"]
    plots.confusion(np.eye(2, dtype=np.int64), ["日本語", "ok"], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
