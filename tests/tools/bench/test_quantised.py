"""The comparison of precisions: who computes when, and what is told of it."""

from __future__ import annotations

from glimpse.server.runtimes import Precision
from tools.bench.quantised import costs, told


def test_precisions_compute_in_turns_of_which_the_first_does_not_count() -> None:
    asked = list[Precision]()

    def turn(precision: Precision) -> float:
        asked.append(precision)
        return len(asked)

    found = costs(turn, ["float32", "int8"])
    assert asked[:6] == ["float32", "int8", "float32", "int8", "int8", "float32"]
    assert found["float32"][:2] == [3, 6]
    assert found["int8"][:2] == [4, 5]
    assert len(asked) == 2 * (1 + len(found["int8"]))


def test_ratios_are_those_within_a_turn() -> None:
    """The machine was three times as slow in the second turn."""
    text = told({"float32": [0.004, 0.012, 0.004], "bfloat16": [0.003, 0.009, 0.002], "int8": [0.002, 0.006, 0.002]})
    assert text == (
        "float32 4.000, bfloat16 3.000, int8 2.000 ms an image; int8 is 2.00 times as fast as float32, "
        "1.50 times as fast as bfloat16"
    )
