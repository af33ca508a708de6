"""Whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.turns import Turns


def turns_of(*items: str) -> Turns[str]:
    """Items whose first letter is their lane."""
    turns: Turns[str] = Turns()
    for item in items:
        turns.put(item[0], item)
    return turns


def drained(turns: Turns[str]) -> list[str]:
    return [turns.take() for _ in range(len(turns))]


def test_lanes_are_taken_in_turn_and_each_in_its_own_order() -> None:
    assert drained(turns_of("a1", "a2", "a3", "b1", "c1", "c2")) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_what_is_first_stays_until_it_is_taken() -> None:
    turns = turns_of("a1", "a2", "b1")
    assert (turns.first(), turns.first(), turns.take(), turns.first()) == ("a1", "a1", "a1", "b1")


def test_a_lane_that_comes_waits_for_one_of_each_other_lane() -> None:
    turns = turns_of(*(f"a{number}" for number in range(100)), "b1", "b2")
    assert turns.ahead("c") == 2
    assert turns.ahead("b") == 2 + 3  # its own two, and three of the others' hundred
    assert turns.ahead("a") == 100 + 2


def test_the_unwanted_are_removed_from_all_lanes() -> None:
    turns = turns_of("a1", "a2", "b1", "c2")
    assert turns.discard(lambda item: item.endswith("1")) == 2
    assert (len(turns), drained(turns)) == (2, ["a2", "c2"])


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(0, 30), st.sampled_from("abcd"))
def test_as_many_are_taken_before_a_newcomer_as_was_foretold(lanes: list[str], taken: int, lane: str) -> None:
    turns = turns_of(*lanes)
    for _ in range(min(taken, len(turns))):
        turns.take()
    foretold = turns.ahead(lane)
    turns.put(lane, "the newcomer")
    order = drained(turns)
    # A lane in the middle of the round may have had its turn already, so that one item fewer goes before.
    assert foretold - 3 <= order.index("the newcomer") <= foretold
