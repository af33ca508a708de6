"""Variants side by side: each is compared with the first within a turn."""

from __future__ import annotations

from typing import Any, cast

from tools.bench.sides import Side, table


def side(name: str, whole: list[float]) -> Side:
    return Side(name, cast("Any", None), [100.0, 50.0, 75.0], [0.01] * 3, [0.001] * 3, whole)


def test_a_machine_that_slows_down_for_both_does_not_change_their_ratio() -> None:
    _, _, first, second = table([side(".", [1.0, 2.0, 4.0]), side("../before", [1.1, 2.2, 4.4])]).splitlines()
    assert first == "| . | 75.0 | 10.0 | 2000000 | 1000 | 1.000 |"
    assert second.endswith("| 1.100 |")
