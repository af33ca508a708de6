"""What workers and engines say to each other: each record comes as it was sent, wherever the stream is cut."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.engine import records
from glimpse.server.engine.records import Answered, Cancel, Hello, Inbox, LaneNamed, Record, Refused, Submit
from glimpse.server.errors import DeadlineExceededError, InternalError, OverloadedError, Reason, UnavailableError
from glimpse.server.fair_queue import PRIORITIES, Lane

small, tickets = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
seconds = st.floats(0, 1e9)
texts = st.text(max_size=40)


def sent(record: Record) -> bytes:
    match record:
        case Hello(_, slots, size):
            return records.hello(slots, size)
        case LaneNamed(number, lane):
            return records.lane(number, lane)
        case Submit(slot, lane_number, outputs, ticket, deadline, since):
            return records.submit(slot, lane_number, outputs, ticket, deadline, since)
        case Cancel(ticket):
            return records.cancel(ticket)
        case Answered(size, ticket, batch, queued, computed):
            return records.answer(ticket, size, batch, queued, computed)
        case Refused(ticket, error):
            return records.refusal(ticket, error)


any_record = st.one_of(
    st.builds(Hello, st.just(records.VERSION), small, tickets),
    st.builds(LaneNamed, small, st.builds(Lane, texts, texts, st.integers(1, PRIORITIES))),
    st.builds(Submit, small, small, small, tickets, seconds | st.just(math.inf), seconds),
    st.builds(Cancel, tickets),
    st.builds(Answered, small, tickets, tickets, seconds, seconds),
    st.builds(Refused, tickets, st.none()),
)


@given(st.lists(any_record, max_size=12), st.lists(st.integers(1, 90), max_size=60))
def test_records_come_as_they_were_sent_wherever_they_are_cut(told: list[Record], cuts: list[int]) -> None:
    stream, inbox, found = b"".join(map(sent, told)), Inbox(), []
    for cut in cuts:
        found += inbox.take(stream[:cut])
        stream = stream[cut:]
    assert [*found, *inbox.take(stream)] == told


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError(Reason.QUEUE_FULL, "64 images wait.", retry_after=0.25),
        UnavailableError(Reason.RUNTIME_STUCK, "It hangs. Ä"),
        DeadlineExceededError("0.2 s too late"),
        InternalError("The model failed."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_the_same_error(error: UnavailableError) -> None:
    (found,) = Inbox().take(records.refusal(7, error))
    assert isinstance(found, Refused)
    assert found.ticket == 7
    assert type(found.error) is type(error)
    assert found.error is not None
    assert vars(found.error) == vars(error)


def test_an_error_that_no_caller_is_to_see_becomes_a_defect() -> None:
    (found,) = Inbox().take(records.refusal(7, KeyError("a secret of ours")))
    assert isinstance(found, Refused)
    assert isinstance(found.error, InternalError)
    assert "secret" not in found.error.message


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="no record of kind 99"):
        Inbox().take(bytes([99] * 20))


def test_a_long_name_of_a_lane_is_cut_and_the_next_record_is_read() -> None:
    found = Inbox().take(records.lane(1, Lane("ä" * 70_000, "x")) + records.cancel(3))
    assert isinstance(found[0], LaneNamed)
    assert found[0].lane.who.startswith("ä" * 30_000)
    assert found[1:] == [Cancel(3)]
