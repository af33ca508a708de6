"""Whose turn it is."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from glimpse.server.fair_queue import FairQueue, Lane


def lane(item: str) -> Lane:
    """Of an item such as a1, the party a; of ax1, its lane x."""
    return Lane(item[0], item[1:].rstrip("0123456789"))


def turns_of(*items: str) -> FairQueue[str]:
    turns: FairQueue[str] = FairQueue()
    for item in items:
        turns.put(lane(item), item)
    return turns


def drained(turns: FairQueue[str]) -> list[str]:
    return [turns.take() for _ in range(len(turns))]


def drained_items(turns: FairQueue[tuple[str, str, int, int]]) -> list[tuple[str, str, int, int]]:
    return [turns.take() for _ in range(len(turns))]


def test_parties_are_taken_in_turn_and_each_lane_in_its_own_order() -> None:
    assert drained(turns_of("a1", "a2", "a3", "b1", "c1", "c2")) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_party_with_many_names_has_no_more_turns_than_one_with_one() -> None:
    turns = turns_of("ax1", "ax2", "ay1", "az1", "b1", "b2", "b3", "b4")
    assert drained(turns) == ["ax1", "b1", "ay1", "b2", "az1", "b3", "ax2", "b4"]


def test_two_parties_may_use_the_same_name_and_have_turns_of_their_own() -> None:
    assert drained(turns_of("ax1", "ax2", "bx1")) == ["ax1", "bx1", "ax2"]


def test_of_one_party_a_higher_priority_is_taken_first() -> None:
    """It has no more turns than any other party because of that."""
    turns = turns_of("ax1", "ay1", "ax2", "b1", "b2", "b3", "b4", "b5")
    turns.put(Lane("a", "x", 9), "ax9")
    turns.put(Lane("a", "z", 1), "az1")
    turns.put(Lane("a", "x", 1), "ax0")
    turns.put(Lane("a", "z", 1), "az2")
    assert turns.first() == "az1"
    expected = ["az1", "b1", "ax0", "b2", "az2", "b3", "ax1", "b4", "ay1", "b5", "ax2", "ax9"]
    assert drained(turns) == expected


# The newcomer's lane stands in front of the other one of its party, so that it has the turn before that one's second.
@example([("a", "x", 5), ("a", "y", 5), *[("b", "x", 1)] * 4, ("a", "x", 1), ("a", "y", 5)])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from([1, 5, 9])), max_size=30))
def test_with_priorities_nothing_is_lost_and_newcomers_are_foretold(items: list[tuple[str, str, int]]) -> None:
    turns: FairQueue[tuple[str, str, int, int]] = FairQueue()
    for number, (who, name, priority) in enumerate(items):
        turns.put(Lane(who, name, priority), (who, name, priority, number))
    turns.discard(lambda item: item[3] % 7 == 6)
    newcomer = Lane("a", "x", 5)
    expected = turns.ahead(newcomer).items
    turns.put(newcomer, ("new", "", 0, -1))
    order = drained_items(turns)
    assert sorted(item[3] for item in order) == sorted([-1, *[n for n in range(len(items)) if n % 7 != 6]])
    assert next(place for place, item in enumerate(order) if item[0] == "new") == expected
    for party in "ab":
        priorities = [item[2] for item in order if item[0] == party]
        assert priorities == sorted(priorities)


def test_what_is_first_stays_until_it_is_taken() -> None:
    turns = turns_of("a1", "a2", "b1")
    assert (turns.first(), turns.first(), turns.take(), turns.first()) == ("a1", "a1", "a1", "b1")


def test_a_party_that_comes_waits_for_one_of_each_other_party() -> None:
    turns = turns_of(*(f"a{number}" for number in range(100)), "b1", "b2")
    assert turns.ahead(Lane("c")).items == 2
    assert turns.ahead(Lane("b")).items == 2 + 3  # its own two, and three of the others' hundred
    assert turns.ahead(Lane("a")).items == 100 + 2


def test_a_lane_that_comes_waits_for_one_of_each_other_lane_of_its_party() -> None:
    turns = turns_of(*(f"ax{number}" for number in range(100)), "b1", "b2")
    assert turns.ahead(Lane("a", "y")).items == 1 + 1
    assert turns.ahead(Lane("a", "x")).items == 100 + 2


def test_turns_are_equal_in_work_not_in_number() -> None:
    turns: FairQueue[str] = FairQueue()
    for number in range(3):
        turns.put(Lane("heavy"), f"h{number}", 10)
    for number in range(25):
        turns.put(Lane("light"), f"l{number}", 1)
    order = "".join(item[0] for item in drained(turns))
    assert order == "hl" + "l" * 9 + "hl" + "l" * 9 + "hl" + "l" * 4


def test_work_that_was_done_at_once_counts_against_the_next() -> None:
    """Who sends one expensive item at a time, each when the one before has begun, has no more turns for it."""
    turns: FairQueue[str] = FairQueue()
    for number in range(30):
        turns.put(Lane("light"), f"l{number}", 1)
    order = []
    heavy = 0
    while len(turns):
        if "h" not in {item[0] for _, _, party in turns._heap for each in party.lanes.values() for item, _ in each}:
            turns.put(Lane("heavy"), f"h{heavy}", 10)
            heavy += 1
        order.append(turns.take()[0])
        if order.count("l") == 30:
            break
    assert order.count("h") == 3


def test_a_party_that_was_away_has_not_saved_up_turns() -> None:
    turns = turns_of(*(f"a{number}" for number in range(9)), "b1")
    assert [turns.take() for _ in range(6)] == ["a0", "b1", "a1", "a2", "a3", "a4"]
    for item in ("b2", "b3", "b4"):
        turns.put(lane(item), item)
    assert drained(turns) == ["b2", "a5", "b3", "a6", "b4", "a7", "a8"]


def test_nothing_is_kept_of_parties_that_are_gone() -> None:
    turns: FairQueue[str] = FairQueue()
    turns.put(Lane("stays"), "s", 1)
    for number in range(1000):
        turns.put(Lane("stays"), "s", 1)
        turns.put(Lane(f"passes {number}"), "p", 5)
        while len(turns) > 1:
            turns.take()
    assert len(turns._parties) < 20
    turns.take()
    assert (turns._parties, turns._heap) == ({}, [])


def test_the_unwanted_are_removed_from_all_lanes() -> None:
    turns = turns_of("a1", "a2", "b1", "c2")
    assert turns.discard(lambda item: item.endswith("1")) == 2
    assert (len(turns), drained(turns)) == (2, ["a2", "c2"])
    turns = turns_of("a1", "b1")
    assert turns.discard(lambda _: True) == 2
    assert (len(turns), turns._parties, turns.ahead(Lane("a"))) == (0, {}, (0, 0))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=30),
    st.integers(0, 30),
    st.sampled_from("abcd"),
    st.sampled_from("xyzw"),
)
def test_as_many_are_taken_before_a_newcomer_as_was_foretold(
    lanes: list[tuple[str, str]], taken: int, who: str, name: str
) -> None:
    turns = turns_of(*(f"{party}{each}{number}" for number, (party, each) in enumerate(lanes)))
    for _ in range(min(taken, len(turns))):
        turns.take()
    foretold = turns.ahead(Lane(who, name)).items
    turns.put(Lane(who, name), "the newcomer")
    assert drained(turns).index("the newcomer") == foretold


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=60))
def test_no_party_that_waits_falls_behind_another_by_more_than_two_items(items: list[tuple[str, int]]) -> None:
    """The bound of start-time fair queueing: the work given to two parties that wait differs by an item of each."""
    turns: FairQueue[tuple[str, int]] = FairQueue()
    for item in items:
        turns.put(Lane(item[0]), item, item[1])
    left = {who: [work for party, work in items if party == who] for who in "abc"}
    most = {who: max(works, default=0) for who, works in left.items()}
    given_to = dict.fromkeys("abc", 0)
    while len(turns):
        who, work = turns.take()
        assert left[who].pop(0) == work
        given_to[who] += work
        waiting = [each for each in "abc" if left[each]]
        for one in waiting:
            for other in waiting:
                assert given_to[one] - given_to[other] <= most[one] + most[other]


def test_the_work_before_a_newcomer_is_told_beside_the_number_of_items() -> None:
    turns: FairQueue[str] = FairQueue()
    for number in range(4):
        turns.put(Lane("heavy"), f"h{number}", 50)
    for number in range(20):
        turns.put(Lane("light"), f"l{number}", 1)
    assert turns.ahead(Lane("newcomer")) == (2, 51)
    assert turns.ahead(Lane("light")) == (21, 70)  # its own, and one of the others, by whose work it is not outdone
    assert turns.ahead(Lane("heavy")) == (4 + 20, 200 + 20)


def test_one_may_be_taken_beside_parties_that_are_busy() -> None:
    turns = turns_of("a1", "a2", "b1", "b2", "c1")
    assert turns.take_beside({"a", "b", "c"}) is None
    assert turns.take_beside({"a"}) == "b1"
    assert drained(turns) == ["a1", "c1", "b2", "a2"]
    assert turns.take_beside(()) is None
    turns.put(Lane("a"), "last")
    assert (turns.take_beside(()), len(turns), turns._heap) == ("last", 0, [])


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.sampled_from(["", "a", "ab", "abc"])), max_size=60
    )
)
def test_whatever_is_taken_beside_the_turn_nothing_is_lost(steps: list[tuple[str, int, str]]) -> None:
    turns: FairQueue[tuple[str, int]] = FairQueue()
    left: list[tuple[str, int]] = []
    for who, work, busy in steps:
        turns.put(Lane(who), (who, work), work)
        left.append((who, work))
        if busy:
            taken = turns.take_beside(busy)
            assert (taken is None) == all(each in busy for each, _ in left)
            if taken is not None:
                left.remove(taken)
        elif work % 2:
            left.remove(turns.take())
    assert len(turns) == len(left)
    while len(turns):
        left.remove(turns.take())
    assert (left, turns._parties, turns._heap) == ([], {}, [])


def test_even_is_what_is_taken_until_the_smallest_party_is_served() -> None:
    assert turns_of().even() == 0
    assert turns_of("ax1", "ay1", "az1").even() == 3
    assert turns_of("a1", "a2", "a3", "b1", "b2", "c1", "c2").even() == 6
