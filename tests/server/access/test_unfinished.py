"""What unfinished messages hold, by the bytes of their connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.access.unfinished import Reading, Unfinished

MB = 1_000_000
_LARGEST = 16 * MB


def begun(unfinished: Unfinished, who: str = "a", peer: str = "1", *, at: float = 0.0, stream: bool = False) -> Reading:
    reading = Reading(who, peer, None, at, stream=stream)
    unfinished.begin(reading)
    return reading


def test_a_message_holds_what_its_connection_received_since_it_was_begun() -> None:
    unfinished = Unfinished(_LARGEST)
    reading = begun(unfinished)
    assert unfinished.look({"1": 0}) == 0
    assert unfinished.look({"1": 3 * MB}) == 3 * MB
    assert reading.held == 3 * MB
    unfinished.end(reading, 4 * MB)
    assert unfinished.look({"1": 4 * MB}) == 0


def test_no_message_holds_more_than_the_largest() -> None:
    unfinished = Unfinished(_LARGEST)
    readings = [begun(unfinished) for _ in range(2)]
    unfinished.look({"1": 0})
    assert unfinished.look({"1": 100 * MB}) == 2 * _LARGEST
    assert [reading.held for reading in readings] == [_LARGEST] * 2


def test_of_an_unknown_connection_each_message_may_be_the_largest() -> None:
    unfinished = Unfinished(_LARGEST)
    reading = begun(unfinished, peer="unix:")
    begun(unfinished)
    assert unfinished.look({"1": MB}) == _LARGEST + MB
    assert reading.held == _LARGEST


def test_whole_messages_of_the_same_connection_do_not_count() -> None:
    unfinished = Unfinished(_LARGEST)
    received = 0
    for _ in range(1000):  # before anybody looks
        received += MB
        unfinished.end(begun(unfinished), MB)
    waiting = begun(unfinished, stream=True)
    assert unfinished.look({"1": received}) == 0
    for _ in range(100):
        other = begun(unfinished)
        received += MB
        unfinished.end(other, MB)
        assert unfinished.look({"1": received}) == 0
    received += 2 * MB
    assert unfinished.look({"1": received}) == 2 * MB
    assert waiting.held == 2 * MB


def test_what_counted_too_much_hides_nothing_later() -> None:
    unfinished = Unfinished(_LARGEST)
    reading = begun(unfinished)
    unfinished.look({"1": 0})
    for _ in range(10):
        unfinished.end(begun(unfinished), _LARGEST)  # of which next to nothing came
    assert unfinished.look({"1": 1000}) == 0
    assert unfinished.look({"1": 5 * MB}) == 5 * MB - 1000
    assert reading.held == 5 * MB - 1000


def test_a_read_that_gave_no_message_leaves_what_the_others_can_hold() -> None:
    unfinished = Unfinished(_LARGEST)
    gone = begun(unfinished)
    unfinished.look({"1": 0})
    unfinished.look({"1": 10 * MB})
    unfinished.end(gone, 0)
    begun(unfinished)
    assert unfinished.look({"1": 11 * MB}) == MB


def test_the_older_of_two_holds_more_of_what_came() -> None:
    unfinished = Unfinished(_LARGEST)
    older = begun(unfinished)
    unfinished.look({"1": 0})
    unfinished.look({"1": 6 * MB})
    newer = begun(unfinished, "b")
    assert unfinished.look({"1": 8 * MB}) == 8 * MB
    assert older.held > newer.held > 0
    assert older.held + newer.held == 8 * MB


def test_a_read_that_was_ended_counts_no_more() -> None:
    unfinished = Unfinished(_LARGEST)
    ended, other = begun(unfinished), begun(unfinished, peer="2")
    unfinished.look({"1": 0, "2": 0})
    unfinished.look({"1": 5 * MB, "2": MB})
    unfinished.forget(ended)
    unfinished.end(ended, 0)
    assert unfinished.look({"2": MB}) == MB
    assert other.held == MB


def test_a_piece_is_slow_from_its_first_bytes_on_and_silence_never_is() -> None:
    unfinished = Unfinished(_LARGEST)
    silent = begun(unfinished, peer="1", stream=True)
    slow = begun(unfinished, peer="2", stream=True)
    lone = begun(unfinished, peer="3")
    received = {"1": 5000, "2": 5000, "3": 5000}
    late = []
    for now in range(0, 600, 10):
        received["1"] += 17  # pings
        if now >= 300:
            received["2"] += 200_000
            received["3"] += 200_000
        unfinished.look(received)
        late += [(now, reading) for reading in unfinished.slow(now, 30.0, 65_536)]
    assert {reading for _, reading in late} == {slow}
    assert late[0][0] == 340
    assert silent.held < 10_000 < lone.held


def test_a_connection_on_which_messages_become_whole_is_not_slow() -> None:
    unfinished = Unfinished(_LARGEST)
    begun(unfinished, stream=True)
    received = 0
    for now in range(0, 300, 10):
        busy = begun(unfinished, stream=True)
        received += 10 * MB
        unfinished.look({"1": received})
        assert not list(unfinished.slow(now, 30.0, 65_536))
        unfinished.end(busy, 10 * MB)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("begin"), st.integers(0, 3)),
            st.tuples(st.just("grow"), st.integers(0, 5 * MB)),
            st.tuples(st.just("finish"), st.integers(0, 100)),
            st.tuples(st.just("cancel"), st.integers(0, 100)),
            st.tuples(st.just("look"), st.just(0)),
        ),
        max_size=80,
    )
)
def test_the_estimate_is_never_below_what_is_held_but_for_headers(steps: list[tuple[str, int]]) -> None:
    unfinished = Unfinished(_LARGEST)
    received = {str(peer): 0 for peer in range(4)}
    pending: dict[Reading, int] = {}  # and what each really holds
    whole = 0
    for step, number in steps:
        if step == "begin":
            pending[begun(unfinished, peer=str(number))] = 0
        elif step == "look":
            unfinished.look(received)
        elif pending:
            reading = list(pending)[number % len(pending)]
            if step == "grow":
                size = min(number, _LARGEST - pending[reading])
                pending[reading] += size
                received[reading.peer] += size
            else:
                size = pending.pop(reading) if step == "finish" else 0
                pending.pop(reading, None)
                whole += 256 + size // 64  # counted for headers and frames, of which there are none here
                unfinished.end(reading, size)
    total = unfinished.look(received)
    assert total >= sum(pending.values()) - whole
    assert total <= sum(received.values())
    assert abs(sum(reading.held for reading in pending) - total) < 1
    assert all(0 <= reading.held <= _LARGEST + 1 for reading in pending)


def test_connections_that_come_and_go_are_forgotten_though_nobody_looks() -> None:
    unfinished = Unfinished(_LARGEST)
    kept = begun(unfinished, peer="kept", stream=True)
    unfinished.end(begun(unfinished, peer="kept"), MB)
    for number in range(50_000):
        unfinished.end(begun(unfinished, peer=str(number)), MB)
    assert len(unfinished._whole) <= 2 * 4096
    assert unfinished.look({"kept": MB}) == 0
    assert kept.held == 0
