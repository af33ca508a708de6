"""The book-keeping of a chaos: who failed, when, and what was going on."""

from __future__ import annotations

from collections import Counter

from glimpse.client import Code
from tools.load import chaos
from tools.load.ledger import Ending, Failure, Ledger, Slow, moment
from tools.load.replica import free_ports


def test_a_failure_is_told_by_the_moment_of_the_replica_that_was_signalled_last() -> None:
    endings = [
        Ending(0, "SIGTERM", 1.0, 3, draining=1.5, exited=2.0, code=0, serving=9.0),
        Ending(1, "SIGKILL", 20.0, 1, exited=20.1, code=-9),
    ]
    assert moment(0.5, endings) == "before the first signal"
    assert moment(1.2, endings) == "+0.200 s from SIGTERM to replica 0"
    assert moment(1.75, endings) == "+0.750 s from SIGTERM to replica 0, 0.250 s into its drain"
    assert moment(3.0, endings) == "+2.000 s from SIGTERM to replica 0, 1.000 s after its exit"
    assert moment(10.0, endings) == "+9.000 s from SIGTERM to replica 0, 1.000 s after its successor was SERVING"
    assert moment(20.05, endings) == "+0.050 s from SIGKILL to replica 1"


def test_a_ledger_counts_every_image_that_stayed_without_an_answer_as_a_request() -> None:
    ledger = Ledger()
    ledger.answer("cat", "cat", Slow(0.5, 1.0, caller=7))
    ledger.answer("dog", "cat")
    ledger.fail(Failure(1.0, 2.0, 3, "classify_many", Code.UNAVAILABLE.name, "DRAINING", "gone", images=4))
    assert ledger.requests == 6
    data = ledger.as_data([])
    assert data["wrong"] == ["expected cat, received dog"]
    assert data["failures"][0]["ended_at"] == "before the first signal"
    assert data["slowest"][0]["caller"] == 7


def test_the_slowest_calls_are_kept() -> None:
    ledger = Ledger()
    for number in range(100):
        ledger.answer("cat", "cat", Slow(float(number % 50), 0.0, number))
    assert [call["seconds"] for call in ledger.as_data([])["slowest"]] == [49, 49, 48, 48, 47, 47, 46, 46, 45, 45]


def test_all_signals_are_sent_in_an_order_that_a_seed_gives() -> None:
    effort = chaos.Effort(terms=5, kills=2, worker_kills=3, engine_kills=1)
    assert Counter(strike.name for strike in chaos.order(effort)) == {
        "SIGTERM": 5,
        "SIGKILL": 2,
        "SIGKILL of a worker": 3,
        "SIGKILL of an engine": 1,
    }
    assert chaos.order(effort) == chaos.order(effort)


def test_ports_are_free_and_apart_from_those_of_outgoing_connections() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert all(10_000 < port < 60_000 for port in ports)
