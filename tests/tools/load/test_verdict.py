"""The promises of an overload: one that is broken must be found broken."""

from __future__ import annotations

from typing import Any

import pytest

from tools.load.overload import together
from tools.load.report import Report
from tools.load.verdict import discounted, judge, refusal_cpu


def load(**values: Any) -> dict[str, Any]:
    """A load of 100 images a second for 10 s."""
    return {
        "requests": 250,
        "answered": 250,
        "images": 1000,
        "seconds": 10.0,
        "sending": 10.0,
        "rate": 100.0,
        "generator_cpu": 5.0,
        "server_cpu": 15.0,
        "latency": {"p50": 0.1, "p99": 0.2},
        "late": {},
        "refused": {},
        "rss": [100] * 9,
        **values,
    }


def pressed(**values: Any) -> dict[str, Any]:
    """What an overload found where everything is as it should be."""
    return {
        "maximum": {"callers": 8, "load": load()},
        "again": load(),
        "insisting": {"once": load(), "many": load()},
        "open": load(requests=2500, refused={"QUEUE_FULL": 2250}, asked=1000.0),
        "fairness": {name: load() for name in ("alone", "beside", "greedy", "first", "second")},
        "deadlines": {
            "hasty": load(requests=260, refused={"DEADLINE_EXCEEDED": 10}),
            "filler": load(),
            "around": 1.0,
            "computed": 2000,
            "outcomes": {"classified": 2000},
            "dropped": {},
        },
        "memory": {"before": 1, "after": 1},
        **values,
    }


def broken_by(found: dict[str, Any]) -> list[str]:
    report = Report("a run")
    judge(found, report, each=4, least=0.8)
    return [promise.text for promise in report.broken]


def test_an_overload_in_which_all_is_well_breaks_no_promise() -> None:
    assert broken_by(pressed()) == []


def test_a_failure_that_is_no_refusal_is_found() -> None:
    found = pressed(again=load(requests=251, refused={"UNAVAILABLE": 1}))
    assert broken_by(found) == ["who is turned away is told that there is no room, or in a flood sent away at once"]


def test_a_deadline_is_no_excuse_for_who_had_none() -> None:
    found = pressed(again=load(requests=251, refused={"DEADLINE_EXCEEDED": 1}))
    assert broken_by(found) == ["who is turned away is told that there is no room, or in a flood sent away at once"]


def test_a_request_without_an_end_is_found() -> None:
    assert broken_by(pressed(again=load(requests=251))) == ["every request has an end"]


def test_a_refused_polite_client_and_unequal_shares_are_found() -> None:
    fairness = pressed()["fairness"] | {
        "beside": load(requests=251, refused={"QUEUE_FULL": 1}),
        "first": load(rate=150.0),
    }
    assert broken_by(pressed(fairness=fairness)) == [
        "a polite client is never refused",
        "two greedy clients get the same",
    ]


def test_images_that_were_computed_too_late_are_found() -> None:
    deadlines = pressed()["deadlines"] | {"computed": 2100}
    assert broken_by(pressed(deadlines=deadlines)) == ["at most 2% of the computed images come too late"]


def test_memory_that_grows_in_the_open_loop_is_found() -> None:
    poured = load(requests=250, asked=1000.0, rss=[100, 100, 100, 100, 110, 120, 130, 140, 150])
    assert broken_by(pressed(open=poured)) == ["memory is flat in the open loop"]


def test_the_generators_cpu_time_is_given_back_to_the_server() -> None:
    assert discounted(load(generator_cpu=10.0), cores=2) == pytest.approx(200)
    assert discounted(load(generator_cpu=0.0), cores=2) == pytest.approx(100)


def test_a_refusal_costs_what_is_left_over_the_answered_images() -> None:
    poured = load(images=800, server_cpu=14.0, refused={"QUEUE_FULL": 200})
    assert refusal_cpu(poured, load()) == pytest.approx(0.01)
    assert refusal_cpu(load(), load()) == 0


def test_loads_of_several_processes_add_up_and_the_worse_percentile_is_said() -> None:
    parts = [load(refused={"QUEUE_FULL": 1}), load(latency={"p50": 0.3, "p99": 0.4}, refused={"QUEUE_FULL": 2})]
    whole = together(parts)
    assert (whole["rate"], whole["images"], whole["refused"]) == (200, 2000, {"QUEUE_FULL": 3})
    assert whole["latency"] == {"p50": 0.3, "p99": 0.4}
