"""The terms of canaries and shadows, and when a canary is rolled back; with a clock of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.metrics.metrics import Metrics
from glimpse.server.repository import rollout_file
from glimpse.server.repository.rollout import Kind, Rollout, RolloutReport, Rollouts, Terms
from glimpse.server.repository.rollout_file import Kept
from tests.server.fake_executor import FakeClock

KEYS = [f"caller {number}" for number in range(4000)]


class Scene:
    """One canary of version 2, where version 1 is the usual one."""

    def __init__(self, **terms: Any) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        self.told: list[str] = []
        self.all = Rollouts(self.metrics.rollouts, self.clock, rolled_back=self.told.append)
        self.put(**terms)

    def put(self, version: str = "2", reference: str = "1", kind: Kind = Kind.CANARY, **terms: Any) -> None:
        self.all.put("cifar", kind, Terms(version, **{"share": 0.5, **terms}), reference)

    @property
    def canary(self) -> Rollout:
        found = self.all.of("cifar", Kind.CANARY)
        assert found is not None
        return found

    def answer(self, number: int, *, ok: bool = True, new: bool = True) -> None:
        for _ in range(number):
            self.canary.answered(0.01, new=new, ok=ok)
            self.all.judge(self.canary)

    def compare(self, number: int, *, agrees: bool) -> None:
        for _ in range(number):
            self.canary.compare(0.25, agrees=agrees)
            self.all.judge(self.canary)

    def value(self, name: str, version: str = "2", **labels: str) -> float | None:
        ours = {"model": "cifar", "version": version, **labels}
        return self.metrics.registry.get_sample_value(name, ours)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_of_the_keys_belongs_to_the_canary(share: float) -> None:
    taken = sum(map(Scene(share=share).canary.takes, KEYS)) / len(KEYS)
    assert abs(taken - share) < 0.03


def test_no_key_belongs_to_no_share_and_every_key_to_all() -> None:
    assert not any(map(Scene(share=0.0).canary.takes, KEYS))
    assert all(map(Scene(share=1.0).canary.takes, KEYS))


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_key_of_a_share_belongs_to_every_larger_one(key: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert Scene(share=more).canary.takes(key) or not Scene(share=less).canary.takes(key)


def test_another_process_divides_the_keys_alike() -> None:
    """Else the workers of a server, and servers behind a balancer, would answer a caller now so, now so."""
    program = """
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.repository.rollout import Kind, Rollouts, Terms
rollouts = Rollouts(Metrics().rollouts)
rollouts.put("cifar", Kind.CANARY, Terms("2", 0.5), "1")
canary = rollouts.of("cifar", Kind.CANARY)
print("".join(str(int(canary.takes(f"caller {number}"))) for number in range(100)))
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.strip() == "".join(str(int(Scene().canary.takes(key))) for key in KEYS[:100])


def test_versions_and_models_have_different_callers_in_their_shares() -> None:
    """Else the same callers would try every new version of every model first."""
    scene = Scene(share=0.5)
    first = [scene.canary.takes(key) for key in KEYS]
    scene.put(version="3")
    second = [scene.canary.takes(key) for key in KEYS]
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(KEYS)
    assert abs(same - 0.5) < 0.05


def test_a_canary_that_fails_too_often_is_rolled_back() -> None:
    scene = Scene(max_error_rate=0.02, min_requests=100)
    scene.answer(97)
    scene.answer(2, ok=False)
    assert scene.canary.running  # 2 of 99 are more than 2 %, but fewer than a hundred tell nothing
    scene.answer(1)
    assert scene.canary.running  # 2 of 100
    scene.answer(1, ok=False)
    assert not scene.canary.running
    assert scene.canary.terms.rolled_back == "3 of its last 101 requests failed; at most 2.00% may."
    assert scene.told == ["cifar"]
    assert scene.value("glimpse_rollbacks_total", cause="errors") == 1
    assert scene.value("glimpse_rollbacks_total", cause="disagreement") == 0
    assert scene.value("glimpse_rollout_share", rollout="canary") == 0
    assert not any(map(scene.canary.takes, KEYS))
    assert not scene.all.any("cifar")


def test_errors_of_the_usual_version_do_not_count_for_the_canary() -> None:
    scene = Scene(max_error_rate=0.02, min_requests=10)
    scene.answer(50, ok=False, new=False)
    scene.answer(50)
    assert scene.canary.running
    assert (scene.canary.usual.failed, scene.canary.new.answered) == (50, 50)
    assert scene.value("glimpse_rollout_answers_total", "1", rollout="canary", outcome="failed") == 50
    assert scene.value("glimpse_rollout_answers_total", rollout="canary", outcome="answered") == 50


def test_what_is_older_than_the_window_is_forgotten() -> None:
    scene = Scene(max_error_rate=0.5, min_requests=10, window_seconds=60.0)
    scene.answer(9, ok=False)
    scene.clock.now += 61
    scene.answer(5, ok=False)
    assert scene.canary.running  # of the last minute, 5
    scene.clock.now += 30
    scene.answer(4, ok=False)
    assert scene.canary.running
    scene.answer(1, ok=False)
    assert not scene.canary.running
    assert scene.canary.new.failed == 19  # what is told counts all of them


def test_a_canary_that_disagrees_too_often_is_rolled_back() -> None:
    scene = Scene(min_agreement=0.9, min_requests=20)
    scene.compare(17, agrees=True)
    scene.compare(2, agrees=False)
    scene.compare(1, agrees=True)
    assert scene.canary.running  # 18 of 20
    scene.compare(1, agrees=False)
    assert scene.canary.terms.rolled_back == (
        "It names the first class of version 1 for 18 of the last 21 images; at least 90.00% are to agree."
    )
    assert scene.canary.comparison.mean_difference == 0.25
    assert scene.value("glimpse_rollout_compared_images_total", rollout="canary", agrees="no") == 3
    assert scene.value("glimpse_rollout_probability_difference_sum", rollout="canary") == 21 * 0.25


def test_without_terms_nothing_is_rolled_back() -> None:
    scene = Scene()
    scene.answer(500, ok=False)
    scene.compare(500, agrees=False)
    assert scene.canary.running
    scene.put(kind=Kind.SHADOW, min_agreement=0.9)
    shadow = scene.all.of("cifar", Kind.SHADOW)
    assert shadow is not None
    for _ in range(500):
        shadow.compare(1.0, agrees=False)
        scene.all.judge(shadow)
    assert shadow.running
    assert scene.value("glimpse_rollout_min_agreement", rollout="shadow") == 0.9


def test_a_larger_share_goes_on_counting_and_another_version_begins() -> None:
    scene = Scene(share=0.1)
    scene.answer(10)
    scene.put(share=0.5)
    assert scene.canary.new.answered == 10
    scene.put(share=0.5, reference="0")
    assert scene.canary.new.answered == 0  # it is compared with another one
    scene.answer(10)
    scene.put(version="3", reference="0")
    assert scene.canary.new.answered == 0
    assert scene.value("glimpse_rollout_share", rollout="canary") is None
    assert scene.value("glimpse_rollout_share", "3", rollout="canary") == 0.5
    scene.all.remove("cifar", Kind.CANARY)
    assert scene.value("glimpse_rollout_share", "3", rollout="canary") is None
    assert scene.all.of("cifar", Kind.CANARY) is None


def test_one_that_was_rolled_back_begins_anew() -> None:
    scene = Scene(max_error_rate=0.0, min_requests=1)
    scene.answer(1, ok=False)
    assert not scene.canary.running
    scene.put(max_error_rate=0.5, min_requests=1)
    assert scene.canary.running
    assert scene.canary.new.failed == 0


@pytest.mark.parametrize("then", ["ends", "gets other terms", "is another version"])
def test_requests_of_a_past_canary_roll_nothing_back(then: str) -> None:
    scene = Scene(max_error_rate=0.0, min_requests=1)
    before = scene.canary
    if then == "ends":
        scene.all.remove("cifar", Kind.CANARY)
    else:
        scene.put(version="3" if then == "is another version" else "2", max_error_rate=0.5, min_requests=10)
    before.answered(0.01, new=True, ok=False)
    scene.all.judge(before)
    assert not scene.told
    assert scene.value("glimpse_rollbacks_total", cause="errors") == 0
    assert scene.value("glimpse_rollout_share", rollout="canary") == (0.5 if then == "gets other terms" else None)
    assert before.running is (then == "gets other terms")  # else copies for it are dropped


TERMS = st.builds(
    Terms,
    version=st.integers(1, 10**9).map(str),
    share=st.floats(0, 1),
    max_error_rate=st.none() | st.floats(0, 1),
    min_agreement=st.none() | st.floats(0, 1),
    min_requests=st.integers(1, 10**6),
    window_seconds=st.floats(1, 86_400),
    rolled_back=st.text(st.characters(codec="ascii", exclude_characters='"\\', exclude_categories=["C"]), max_size=400),
)
KEPT = st.builds(Kept, st.dictionaries(st.sampled_from(Kind), TERMS), st.just("") | st.integers(1, 99).map(str))


@given(KEPT)
def test_what_is_kept_is_read_again(tmp_path_factory: pytest.TempPathFactory, kept: Kept) -> None:
    folder = tmp_path_factory.mktemp("model")
    rollout_file.write(folder, kept)
    assert rollout_file.read(folder) == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[canary]\nversion = 0\nshare = 0.1", "canary.version"),
        ("[canary]\nversion = 2", "canary.share"),
        ("[shadow]\nversion = 2\nshare = 2", "shadow.share"),
        ("[canary]\nversion = 2\nshares = 0.1\nshare = 0.1", "canary.shares is not a key"),
        ("canary = 2", "canary"),
        ("[canary", "rollout.toml cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / rollout_file.FILE).write_text(text)
    with pytest.raises(ValueError, match=said):
        rollout_file.read(tmp_path)


def test_what_workers_count_is_decided_on_together() -> None:
    """As an engine and its workers do: terms go to the workers, counts come back, as JSON."""
    engine, workers = Scene(max_error_rate=0.1, min_agreement=0.5, min_requests=20), [Scene(), Scene()]
    for worker in workers:
        worker.all.decides = False
        worker.put(kind=Kind.SHADOW)  # which the engine has not
        worker.all.follow([each.report() for each in engine.all])
        assert [(each.kind, each.terms) for each in worker.all] == [(Kind.CANARY, engine.canary.terms)]
        worker.answer(9)
        worker.answer(2, ok=False)
        worker.answer(3, new=False)
        worker.compare(4, agrees=True)
        worker.canary.drop(5)
        assert worker.canary.running  # it is not the one to decide
        for taken in worker.all.take():
            engine.all.add(RolloutReport.of(json.loads(json.dumps(taken.said()))))
        assert worker.all.take() == []
    found = engine.canary.report()
    assert (found.new.answered, found.new.failed, found.usual.answered) == (18, 4, 6)
    assert found.new.seconds == pytest.approx(0.18)
    assert (found.comparison.images, found.comparison.agreed, found.comparison.dropped) == (8, 8, 10)
    assert found.comparison.difference == 2.0
    assert found.terms.rolled_back == "4 of its last 22 requests failed; at most 10.00% may."
    workers[0].all.follow([found])
    assert not workers[0].canary.running
    assert engine.value("glimpse_rollout_answers_total", rollout="canary", outcome="failed") == 0  # workers count them


def test_counts_of_a_version_that_is_no_candidate_any_more_are_ignored() -> None:
    engine, worker = Scene(max_error_rate=0.0, min_requests=1), Scene()
    worker.answer(5, ok=False)
    engine.put(version="3", max_error_rate=0.0, min_requests=1)
    for taken in worker.all.take():
        engine.all.add(taken)
    assert engine.canary.running
    assert engine.canary.new.failed == 0
