"""So many images a second for one caller, and exactly so many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from glimpse.server.access.rates import Allowance, Rates
from glimpse.server.errors import InvalidRequestError, OverloadedError, Reason
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import IN, Inside, bearer, channel, classify, entry
from tests.server.conftest import TIMEOUT


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refusal(rates: Rates, who: str, images: int, allowance: Allowance | None = None) -> OverloadedError:
    with pytest.raises(OverloadedError) as refused:
        rates.take(who, images, allowance)
    assert refused.value.reason is Reason.RATE_LIMITED
    return refused.value


def test_a_burst_passes_at_once_and_then_it_goes_by_the_rate(clock: Clock) -> None:
    rates = Rates(Allowance(4.0, 10), clock=clock)
    rates.take("alice", 10)
    assert refusal(rates, "alice", 1).retry_after == pytest.approx(0.25)
    clock.now += 0.25
    rates.take("alice", 1)
    refusal(rates, "alice", 1)


@pytest.mark.parametrize("images", [1, 3, 10])
@pytest.mark.parametrize("rate", [0.1, 3.0, 7.7, 1000.0])
def test_after_the_time_in_the_hint_there_is_room_and_not_before(clock: Clock, rate: float, images: int) -> None:
    rates = Rates(Allowance(rate, 10), clock=clock)
    for _ in range(100):
        rates.take("alice", 10)
        missing = refusal(rates, "alice", images).retry_after
        assert missing is not None
        clock.now += missing * 0.99
        refusal(rates, "alice", images)
        clock.now += missing * 0.01
        rates.take("alice", images)
        clock.now += 10 / rate


def test_what_is_refused_takes_nothing(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    rates.take("alice", 6)
    for _ in range(5):
        refusal(rates, "alice", 5)
    rates.take("alice", 4)


def test_each_who_is_refused_is_told_a_place_of_its_own_in_the_line(clock: Clock) -> None:
    rates = Rates(Allowance(5.0, 10), clock=clock)
    rates.take("alice", 10)
    hints = [refusal(rates, "alice", 1).retry_after for _ in range(100)]
    assert hints == pytest.approx([0.2 * place for place in range(1, 101)])
    assert refusal(rates, "alice", 5).retry_after == pytest.approx(21.0)  # it takes five places
    # Whoever comes when told finds room, whatever the order in which they come.
    for _ in range(100):
        clock.now += 0.2
        rates.take("alice", 1)
        refusal(rates, "alice", 1)


def test_those_who_were_told_to_come_back_and_do_not_take_no_room(clock: Clock) -> None:
    rates = Rates(Allowance(5.0, 10), clock=clock)
    rates.take("alice", 10)
    for _ in range(100):
        refusal(rates, "alice", 1)
    clock.now += 1.0
    for _ in range(5):
        rates.take("alice", 1)
    # A bucket that is full says that nobody came: the line begins anew.
    clock.now += 2.1
    rates.take("alice", 10)
    assert refusal(rates, "alice", 1).retry_after == pytest.approx(0.2)


def test_the_places_of_those_who_gave_up_are_forgotten_as_time_passes_them(clock: Clock) -> None:
    rates = Rates(Allowance(5.0, 1000), clock=clock)
    rates.take("alice", 1000)
    for _ in range(50):
        refusal(rates, "alice", 1)
    clock.now += 10.0
    rates.take("alice", 50)
    assert refusal(rates, "alice", 1).retry_after == pytest.approx(0.2)


def test_what_counts_for_more_than_the_burst_is_owed(clock: Clock) -> None:
    """It passes once the bucket is full, and what it takes beyond that delays what comes next."""
    rates = Rates(Allowance(5.0, 10), clock=clock)
    assert rates.take("alice", 1, worth=50) == 0
    assert refusal(rates, "alice", 1).retry_after == pytest.approx((50 + 1 - 10) / 5)
    clock.now += 41 / 5
    rates.take("alice", 1)
    with pytest.raises(OverloadedError) as refused:
        rates.take("alice", 1, worth=50)
    assert refused.value.retry_after == pytest.approx(10 / 5), "when the bucket is full"
    clock.now += 2
    assert rates.take("alice", 1, worth=50) == 0
    rates.give_back("alice", 1, worth=50)
    assert rates.take("alice", 10) == 0


def test_the_line_ends_somewhere_but_never_before_there_is_room(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 1), clock=clock)
    rates.take("alice", 1)
    hints = [refusal(rates, "alice", 1).retry_after or 0.0 for _ in range(1000)]
    assert hints == sorted(hints)
    assert hints[-1] == pytest.approx(60.0)
    slow = Rates(Allowance(0.001, 1), clock=clock)
    slow.take("alice", 1)
    assert [refusal(slow, "alice", 1).retry_after for _ in range(3)] == pytest.approx([1000.0] * 3)


def test_places_are_of_one_caller(clock: Clock) -> None:
    rates = Rates(Allowance(5.0, 10), clock=clock)
    for who in ("mallory", "alice"):
        rates.take(who, 10)
    for _ in range(50):
        refusal(rates, "mallory", 1)
    assert refusal(rates, "alice", 1).retry_after == pytest.approx(0.2)


def test_who_has_patience_takes_the_next_turns_and_waits_for_them(clock: Clock) -> None:
    rates = Rates(Allowance(5.0, 10), clock=clock)
    assert rates.take("alice", 10, patience=1.0) == 0.0
    waits = [rates.take("alice", 1, patience=1.0) for _ in range(5)]
    assert waits == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    with pytest.raises(OverloadedError) as refused:
        rates.take("alice", 1, patience=1.0)
    assert refused.value.retry_after == pytest.approx(1.2)
    rates.give_back("alice", 1)
    assert rates.take("alice", 1, patience=1.0) == pytest.approx(1.0)
    clock.now += 1.0
    assert rates.take("alice", 1, patience=1.0) == pytest.approx(0.2)


def test_a_pause_gives_no_more_than_the_burst(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    rates.take("alice", 10)
    clock.now += 1e6
    rates.take("alice", 10)
    refusal(rates, "alice", 1)


def test_a_request_above_the_burst_is_told_that_it_can_never_pass(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    with pytest.raises(InvalidRequestError, match="One caller may send at most 10 images at once") as refused:
        rates.take("alice", 11)
    assert refused.value.reason is Reason.TOO_MANY_IMAGES
    assert refused.value.retry_after is None
    rates.take("alice", 10)


def test_one_caller_s_images_do_not_count_for_another(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    rates.take("mallory", 10)
    refusal(rates, "mallory", 1)
    rates.take("alice", 10)


def test_an_allowance_of_one_s_own_comes_before_the_usual_one(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    rates.take("bulk", 1000, Allowance(0.0, 1))  # no limit
    generous = Allowance(100.0, 500)
    rates.take("alice", 500, generous)
    assert refusal(rates, "alice", 100, generous).retry_after == pytest.approx(1.0)


def test_no_rate_is_no_limit(clock: Clock) -> None:
    rates = Rates(Allowance(0.0, 1), clock=clock)
    for _ in range(100):
        rates.take("alice", 64)
    assert len(rates) == 0


def test_a_caller_is_forgotten_once_the_bucket_is_full_again(clock: Clock) -> None:
    rates = Rates(Allowance(1.0, 10), clock=clock)
    for number in range(1000):
        rates.take(f"caller {number}", 5)
        clock.now += 1
    # Each takes five seconds to be full again.
    assert len(rates) <= 6


def test_no_more_callers_are_remembered_than_there_is_memory_for(clock: Clock) -> None:
    """However many callers come, no more are remembered than there is memory for."""
    rates = Rates(Allowance(1.0, 10), remembered=50, clock=clock)
    for number in range(1000):
        rates.take(f"caller {number}", 10)
    assert len(rates) == 50
    refusal(rates, "caller 999", 1)


def test_a_server_refuses_above_the_rate_and_says_when_to_come_back(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.toml"
    own = entry("alice", "a", "images_per_second = 0.5", "burst = 2") + entry("bulk", "b", "images_per_second = 0")
    tokens.write_text(own + entry("mallory", "m"))
    running = inside(tokens=tokens, rate_limit=0.001, rate_burst=3)
    with channel(running.target) as caller:
        assert [classify(caller, bearer("m")) for _ in range(4)] == [IN, IN, IN, "RATE_LIMITED"]
        assert classify(caller, bearer("m"), images=4) == "TOO_MANY_IMAGES"
        # The others have buckets of their own, and whose token says so, another limit.
        assert classify(caller, bearer("b"), images=64) == IN
        assert [classify(caller, bearer("a")) for _ in range(3)] == [IN, IN, "RATE_LIMITED"]
        request = pb.ClassifyRequest(images=[pb.Image(encoded=b"x")])
        with pytest.raises(grpc.RpcError) as refused:
            ImageClassifierStub(caller).Classify(request, timeout=TIMEOUT, metadata=bearer("m"))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(refused.value, grpc.Call)
    pushback = dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert 0 < int(pushback) <= 1_000_000  # 1000 s for an image, less what has passed since


def test_each_piece_of_a_stream_takes_from_the_rate(inside: Callable[..., Inside]) -> None:
    running = inside(rate_limit=0.001, rate_burst=3)
    request = pb.ClassifyRequest(images=[pb.Image(encoded=b"x")])
    pieces = [pb.ClassifyStreamRequest(id=str(number), request=request) for number in range(5)]
    with channel(running.target) as caller:
        answers = ImageClassifierStub(caller).ClassifyStream(iter(pieces), timeout=TIMEOUT)
        errors = {answer.id: answer.error for answer in answers}
    assert [errors[str(number)].reason for number in range(5)] == [IN, IN, IN, "RATE_LIMITED", "RATE_LIMITED"]
    assert 0 < errors["3"].retry_after_seconds <= 1000
