"""The parts of a load test that need neither clock nor server: sums, times, conditions, files, plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from glimpse.client.load import figures, knee, pacing, plots, scenario
from glimpse.client.load import text_report as text
from glimpse.client.load.driver import PhaseRun, Usage
from glimpse.client.load.histogram import Histogram
from glimpse.client.load.html_report import page
from glimpse.client.load.images import Pictures, Requests, made, of_files
from glimpse.client.load.live import milliseconds
from glimpse.client.load.plan import Plan
from glimpse.client.load.report import missed, with_knee
from glimpse.client.load.tally import Answer, Request, Tally
from glimpse.client.load.thresholds import parse
from glimpse.v1 import classifier_pb2 as pb
from tests.client.conftest import ROOT


def test_percentiles_are_within_one_percent_of_what_was_counted() -> None:
    values = [0.0005 * 1.003**number for number in range(3000)]
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = values[max(0, round(share * len(values)) - 1)]
        assert exact * 0.9999 <= histogram.percentile(share) <= exact * 1.0101
    assert histogram.mean == pytest.approx(sum(values) / len(values))


def test_a_histogram_stays_small_whatever_comes() -> None:
    histogram = Histogram()
    for exponent in range(-400, 400):
        histogram.add(1.07**exponent * 1.0)
    for value in (-1.0, 0.0, 1e12):
        histogram.add(value)
    assert len(list(histogram.buckets())) < 2600
    assert histogram.count == 803
    assert histogram.percentile(0.0) <= 1e-6


def test_merged_histograms_are_one() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for number in range(1, 100):
        (one if number % 3 else other).add(number / 100)
        both.add(number / 100)
    one.merge(other)
    assert one.figures() == pytest.approx(both.figures())


def test_nothing_has_no_percentile() -> None:
    assert Histogram().figures() == {}
    with pytest.raises(ValueError, match="nothing"):
        Histogram().percentile(0.5)


def first(rate: float, seconds: float, *, steady: bool, seed: int = 0) -> list[float]:
    times: list[float] = []
    for due in pacing.due(rate, steady=steady, seed=seed):
        if due >= seconds:
            return times
        times.append(due)
    raise AssertionError


def test_independent_callers_come_as_often_as_asked_and_unevenly() -> None:
    times = first(50, 400, steady=False)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in pairwise(times)]
    # Of exponential gaps 1 - 1/e are shorter than their mean.
    assert sum(gap < 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.02)
    assert times == first(50, 400, steady=False)
    assert times != first(50, 400, steady=False, seed=1)


def test_steady_ones_come_at_equal_distances() -> None:
    assert first(4, 2, steady=True) == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_a_ramp_has_both_its_ends() -> None:
    assert pacing.steps(10, 50, 5) == [10, 20, 30, 40, 50]
    assert pacing.steps(50, 10, 2) == [50, 10]
    assert pacing.steps(10, 50, 1) == [50]


def some() -> dict[str, Any]:
    return {
        "latency": {"p99": 0.2, "p50": 0.01},
        "error_share": 0.001,
        "requests_per_second": 100.0,
        "images_per_second": 50.0,
    }


@pytest.mark.parametrize(
    ("written", "met"),
    [
        ("p99 < 200 ms", False),
        ("p99 <= 200ms", True),
        ("p99<0.3s", True),
        ("p50 < 9999 us", False),
        ("errors <= 0.1%", True),
        ("errors < 0.1 %", False),
        ("images > 49.9/s", True),
        ("requests >= 101", False),
        ("max < 1 s", False),  # which was not measured
    ],
)
def test_a_threshold_is_met_or_missed(written: str, met: bool) -> None:  # noqa: FBT001  (of parametrize)
    assert parse(written).check(some())["met"] is met


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("p99 < 200", "a time: ms"),
        ("p98 < 200 ms", "no figure 'p98'"),
        ("errors < 5", "in %"),
        ("images > 5 ms", "a rate"),
        ("p99 = 5 ms", "is written like"),
        ("fast", "is written like"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused(written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(written)


def found(search: Generator[float, bool, float | None], holds: Callable[[float], bool]) -> tuple[float | None, int]:
    """What a search comes to, and after how many trials."""
    rate, trials = next(search), 1
    while True:
        try:
            rate = search.send(holds(rate))
        except StopIteration as end:
            return end.value, trials
        trials += 1


@pytest.mark.parametrize("limit", [0.7, 9.9, 10.0, 73.0, 4096.0])
@pytest.mark.parametrize("start", [1.0, 10.0, 300.0])
def test_the_search_finds_the_limit_within_five_percent(limit: float, start: float) -> None:
    rate, trials = found(knee.search(start), lambda rate: rate <= limit)
    assert rate is not None
    assert limit / 1.05 <= rate <= limit
    assert trials < 24


@pytest.mark.parametrize(("holds", "rate"), [(False, None), (True, 500.0)])
def test_the_search_ends_where_there_is_no_limit_to_find(holds: bool, rate: float | None) -> None:  # noqa: FBT001  (of parametrize)
    assert found(knee.search(10.0, highest=500.0), lambda _: holds)[0] == rate


def test_the_example_scenario_is_one() -> None:
    plans = scenario.read(ROOT / "examples" / "load" / "release.toml", timeout=7)
    assert [plan.name for plan in plans] == ["one caller", "a usual hour", "albums, some photos broken", "bulk"]
    assert all(plan.thresholds and plan.timeout == 7 and plan.duration == 30 for plan in plans)
    assert plans[3].stream
    assert not plans[2].stream


def test_the_file_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_bytes("[[phase]]\r\ncallers = 3\r\nrequests = 10\r\n".encode("utf-8-sig"))
    assert scenario.read(file, timeout=60)[0].callers == 3


def test_a_phases_own_way_to_come_and_to_end_replaces_the_default(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text("[defaults]\nrate = 5\nduration = 9\n[[phase]]\ncallers = 3\nrequests = 10\n[[phase]]\n")
    one, other = scenario.read(file, timeout=60)
    assert (one.rate, one.callers, one.requests, one.duration) == (0, 3, 10, float("inf"))
    assert (other.name, other.rate, other.duration) == ("phase 2", 5, 9)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("phase = [", "is not valid TOML"),
        ("", r"has no \[\[phase\]\]"),
        ("[[phases]]\nrate = 1", r"has phases; a scenario has .* alone\. Did you mean phase\?"),
        ("[[phase]]\nrat = 1", r"phase 1 has 'rat', which is not an option of a phase. Did you mean rate\?"),
        ("[[phase]]\nrate = '1'", "rate has to be a number. Received: '1'"),
        ("[[phase]]\ncallers = true", "callers has to be a whole number"),
        ("[[phase]]\nrate = 1", "phase 1: A phase ends after"),
        ("[[phase]]\nrate = -1\nduration = 1", "rate must be 0 or more"),
        ("[[phase]]\nduration = 1\nbad = 2", "bad is a share"),
        ("[[phase]]\nduration = 1\nthresholds = ['quick']", "phase 1: A threshold is written like"),
        ("[[phase]]\nduration = 1\nthresholds = [1]", "phase 1: A threshold is written like"),
    ],
)
def test_a_scenario_that_is_none_says_what_is_wrong(content: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        scenario.read(file, timeout=60)


def requests(
    pictures: Pictures, *, images: int = 3, bad: float = 0.0, stream: bool = False, model: str = "", version: str = ""
) -> Requests:
    return Requests(pictures, images=images, bad=bad, stream=stream, seed=0, model=model, version=version)


def test_requests_are_messages_of_the_contract() -> None:
    request = requests(made(8, 6, seed=0), model="m", version="2").make()
    message = pb.ClassifyRequest.FromString(request.body)
    assert (message.model.name, message.model.version) == ("m", "2")
    assert [(image.raw.height, image.raw.width, len(image.raw.data)) for image in message.images] == [(8, 6, 144)] * 3
    assert request.broken == (False, False, False)


def test_pieces_of_a_stream_take_their_id_in_front() -> None:
    request = requests(made(8, 6, seed=0), stream=True, model="m").make()
    head = pb.ClassifyStreamRequest(id="17").SerializeToString()
    message = pb.ClassifyStreamRequest.FromString(head + request.body)
    assert (message.id, message.request.model.name, len(message.request.images)) == ("17", "m", 3)


def test_the_share_of_broken_images_is_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    make = requests(of_files([str(tmp_path / "a.jpg")]), images=10, bad=0.3).make
    broken = good = 0
    for _ in range(500):
        request = make()
        for image, bad in zip(pb.ClassifyRequest.FromString(request.body).images, request.broken, strict=True):
            assert (image.encoded != b"0123456789") is bad
            broken, good = broken + bad, good + (not bad)
    assert broken / (broken + good) == pytest.approx(0.3, abs=0.03)


def report(*plans: Plan) -> dict[str, Any]:
    """Of a few answers a phase, with errors of a name that HTML has to escape."""
    phases = []
    for plan in plans:
        tally = Tally(0.0, plan.duration)
        for number in range(40):
            due = number * plan.duration / 40
            request = Request(b"", (False,))
            tally.sent(request, due, due + 0.001)
            failed = Answer(error="<b>&") if number % 10 == 9 else None
            answer = failed or Answer(
                images=("",), stages=(0.001, 0.001, 0.002, 0.01, 0.002, 0.003, 0.02, 0.001), batch=3
            )
            tally.done(request, answer, due, due + 0.05 + number / 500)
        phases.append(figures.of(PhaseRun(plan, tally, (Usage(0.1, 1.0, 0.2),))))
    model = {"name": "m", "version": "1", "runtime": "r", "device": "cpu"}
    return {"target": "a<b", "started": "now", "images": "photos", "model": model, "phases": phases, "knee": None}


class Page(HTMLParser):
    """Checks that tags are closed in their order, and collects what a browser would fetch."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [
            f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "xlink:href", "data", "action"}
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PLANS = {
    "one phase": (Plan(duration=10, thresholds=(parse("p99 < 1 ms"), parse("errors < 50%"))),),
    "phases": (Plan(name="<one>", rate=4, duration=10), Plan(name="two", callers=2, duration=0.4)),
}


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_the_page_is_whole_and_asks_nobody_for_anything(plans: tuple[Plan, ...]) -> None:
    html = page(report(*plans))
    parsed = Page(html)
    assert parsed.open == []
    assert {"svg", "style", "table", "details"} <= parsed.seen
    assert parsed.seen.isdisjoint({"script", "link", "img", "iframe", "b&"})
    assert parsed.fetched == []
    assert not re.search(r"https?:|//|url\(|@import|<b>&|nan|inf\b", html.removeprefix("<!DOCTYPE html>"))
    assert html.count("{") == html.count("}")
    assert "&lt;b&gt;&amp;" in html


def test_the_page_of_a_run_without_one_answer_is_a_page() -> None:
    plan = Plan(rate=1, duration=1)
    empty = report(plan)
    empty["phases"] = [figures.of(PhaseRun(plan, Tally(0.0, 0.0), (Usage(0.0, 0.0),), stopped=True))]
    assert Page(page(empty)).open == []
    assert "Not one request was answered" in text.phase(empty["phases"][0])


def test_the_report_tells_missed_thresholds_from_met_ones() -> None:
    whole = report(*PLANS["one phase"])
    assert missed(whole)
    said = text.phase(whole["phases"][0])
    assert re.search(r"MISSED +p99 < 1 ms \(was \d+ ms\)", said)
    assert "met        errors < 50% (was 10.000%)" in said
    assert not missed(report(*PLANS["phases"]))


def test_a_knee_whose_first_failure_is_the_generators_says_so() -> None:
    whole = report(Plan(rate=4, duration=10), Plan(rate=8, duration=10))
    whole["phases"][0]["held"], whole["phases"][1]["held"] = True, False
    assert with_knee(whole, 4.0, slo=0.1, max_errors=0.2)["knee"]["generator_limited"] is False
    whole["phases"][1]["generator"]["late"]["p99"] = 0.5
    limited = with_knee(whole, 4.0, slo=0.1, max_errors=0.2)
    assert "the generator could not keep up" in text.knee(limited)
    assert "The highest rate that held: 4 requests/s (p99 <= 100 ms" in text.knee(limited)
    assert "The generator was the limit" in page(limited)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 ms"), (0.00012345, "0.123 ms"), (0.0123, "12.3 ms"), (1.234, "1.23 s"), (250.0, "250 s"), (None, "-")],
)
def test_times_have_three_digits(seconds: float | None, said: str) -> None:
    assert milliseconds(seconds) == said


@pytest.mark.parametrize(("largest", "end"), [(0, 1), (0.003, 0.004), (0.4, 0.4), (7, 8), (99, 100), (1001, 2000)])
def test_an_axis_ends_at_a_round_number(largest: float, end: float) -> None:
    assert plots.top([largest]) == pytest.approx(end)


@pytest.mark.parametrize(("requests", "said"), [(1, "1 caller, 1 request"), (2, "1 caller, 2 requests")])
def test_a_plan_says_how_many_requests_it_sends(requests: int, said: str) -> None:
    assert Plan(requests=requests).said() == said
