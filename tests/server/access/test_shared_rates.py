"""One rate for a caller, however many workers its connections lead to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from glimpse.server import settings
from glimpse.server.access.control import AccessControl
from glimpse.server.access.rates import Allowance, Rates
from glimpse.server.access.shared_rates import SharedRates, relayed
from glimpse.server.errors import OverloadedError
from glimpse.server.processes.control_channel import ControlChannel

TICK = 0.05  # seconds; an exchange is every second one


class Workers:
    """Workers with a supervisor between, all on one clock, which stands still until told."""

    def __init__(self, count: int, allowance: Allowance) -> None:
        self.now = 1000.0
        self.messages: list[tuple[int, dict[str, Any]]] = []
        self.reachable = True
        self.rates = [Rates(allowance, clock=lambda: self.now) for _ in range(count)]
        self.shared = [SharedRates({"images": each}, self._sender(number)) for number, each in enumerate(self.rates)]

    def _sender(self, number: int) -> Any:
        def send(body: dict[str, Any]) -> bool:
            if self.reachable:
                self.messages.append((number, body))
            return self.reachable

        return send

    def exchange(self) -> None:
        for each in self.shared:
            each.tell()
        told, self.messages = self.messages, []

        def applied(number: int) -> Any:
            def apply(body: dict[str, Any]) -> bool:
                self.shared[number].apply(body)
                return True

            return apply

        for sender, body in told:
            assert relayed(body, sender, {number: applied(number) for number in range(len(self.shared))}) == []

    def taken(self, worker: int, images: int = 1, who: str = "alice") -> int:
        """How many of the images are let in."""
        try:
            self.rates[worker].take(who, images)
        except OverloadedError:
            return 0
        return images

    def greedy(self, seconds: float, workers: list[int]) -> int:
        """Images that a caller gets who sends to these workers as much as they take."""
        got = 0
        for step in range(round(seconds / TICK)):
            self.now += TICK
            for worker in workers:
                while self.taken(worker):
                    got += 1
            if step % 2:
                self.exchange()
        return got


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("rate", [5.0, 30.0])
def test_a_caller_of_several_workers_gets_its_rate_in_the_long_run(count: int, rate: float) -> None:
    """After the first burst, which the workers do not know of each other, it is within 2 %."""
    workers = Workers(count, Allowance(rate, 10))
    everywhere = list(range(count))
    workers.greedy(10 * count / rate + 10, everywhere)
    assert workers.greedy(100.0, everywhere) == pytest.approx(100 * rate, rel=0.02)


@pytest.mark.parametrize("count", [2, 8])
def test_a_burst_is_exceeded_once_and_by_no_more_than_the_workers(count: int) -> None:
    workers = Workers(count, Allowance(10.0, 50))
    everywhere = range(count)
    assert sum(workers.taken(worker, 50) for worker in everywhere) == count * 50
    workers.exchange()
    debt = (count - 1) * 5.0  # seconds
    workers.now += debt
    assert sum(workers.taken(worker) for worker in everywhere) == 0
    assert workers.greedy(100.0, list(everywhere)) == pytest.approx(1000, abs=count + 10)


def test_a_caller_with_one_connection_gets_its_whole_rate() -> None:
    workers = Workers(8, Allowance(100.0, 10))
    assert workers.greedy(20.0, [3]) == pytest.approx(10 + (20 - TICK) * 100, abs=1)


def test_nothing_is_sent_when_nothing_is_spent() -> None:
    workers = Workers(2, Allowance(10.0, 10))
    workers.shared[0].tell()
    assert workers.messages == []
    workers.taken(0)
    workers.shared[0].tell()
    workers.shared[0].tell()
    assert workers.messages == [(0, {"do": "spent", "of": {"images": {"alice": 0.1}}})]


def test_what_is_given_back_is_given_back_everywhere() -> None:
    workers = Workers(2, Allowance(10.0, 10))
    workers.taken(0, 10)
    workers.exchange()
    workers.rates[0].give_back("alice", 4)
    workers.exchange()
    assert workers.taken(1, 5) == 0
    assert workers.taken(1, 4) == 4


def test_what_could_not_be_told_is_told_the_next_time() -> None:
    workers = Workers(2, Allowance(10.0, 10))
    workers.taken(0, 7)
    workers.reachable = False
    workers.exchange()
    workers.reachable = True
    workers.taken(0, 3)
    workers.exchange()
    assert workers.taken(1) == 0


def test_callers_have_buckets_of_their_own_elsewhere_too() -> None:
    workers = Workers(2, Allowance(10.0, 10))
    workers.taken(0, 10)
    workers.exchange()
    assert (workers.taken(1, who="alice"), workers.taken(1, 10, who="bob")) == (0, 10)


def test_a_debt_is_no_deeper_than_an_hour() -> None:
    workers = Workers(1, Allowance(10.0, 10))
    workers.rates[0].charge("alice", 1e9)
    workers.now += 3600
    assert workers.taken(0, 10) == 10


def test_many_callers_are_told_in_several_messages_that_a_channel_takes() -> None:
    ours, theirs = ControlChannel.pair()
    other = ControlChannel(theirs)
    count = 3000
    rates = [Rates(Allowance(10.0, 10)) for _ in range(2)]
    sender, receiver = (SharedRates({"images": each}, ours.send) for each in rates)
    for number in range(count):
        rates[0].take(f"\N{SNOWMAN} {number}", 10)
    sender.tell()
    sender.tell()  # what did not fit into the socket's buffer stays for a later time
    messages = 0
    while len(rates[1]) < count:
        message = other.receive()
        assert message is not None
        receiver.apply(message.body)
        messages += 1
        sender.tell()
    assert messages > 1
    ours.close()
    other.close()


def test_all_rates_of_access_control_are_shared() -> None:
    async def scenario() -> None:
        access = AccessControl(settings.load(["--rate-limit", "5"]))
        sent: list[dict[str, Any]] = []

        def send(body: dict[str, Any]) -> bool:
            sent.append(body)
            return True

        shared = SharedRates(access.all_rates(), send)
        for rates in access.all_rates().values():
            rates.take("alice", 1)
        shared.tell()
        assert {name for body in sent for name in body["of"]} == {
            "images",
            "checks",
            "descriptions",
            "probes",
            "refused",
        }

    asyncio.run(scenario())
