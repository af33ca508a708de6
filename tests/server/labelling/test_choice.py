"""Which images are kept, which answers are remembered, and what is dropped instead of holding anything up."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog.testing

from glimpse.models.decoding.bare import png_of
from glimpse.models.drift import Bins
from glimpse.models.labels import ClassLabel
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.domain import Classification, Computed, EncodedImage, ImageResult, ModelIdentity, Timing
from glimpse.server.errors import PermissionDeniedError
from glimpse.server.labelling import feedback as labelling_feedback
from glimpse.server.labelling.answered import First, first_of, sample_name
from glimpse.server.labelling.exchange import Exchange
from glimpse.server.labelling.feedback import Feedback, Outcome, Told, TrueClass
from glimpse.server.labelling.folder import Facts, Limits, SampleFolder
from glimpse.server.labelling.recent import RecentAnswers
from glimpse.server.labelling.sampler import Answered, Sampler
from glimpse.server.labelling.writer import Sample, Writer
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.settings import Settings

MODEL = ModelIdentity("m", "1", "sha256:0")
LABELS = tuple(ClassLabel(name) for name in "abcdefg")
PNG = EncodedImage(png_of(bytes(48), 4, 4, 3))
THRESHOLD = NoveltyThreshold(score="max_logit", threshold=-4.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def settings(**values: Any) -> Settings:
    return Settings(**values)


def answer(*probabilities: float, top_logit: float = 9.0) -> Classification:
    rest = (1 - sum(probabilities)) / (len(LABELS) - len(probabilities))
    shares = np.array([*probabilities, *[rest] * (len(LABELS) - len(probabilities))], np.float32)
    logits = np.array([top_logit, *[0.0] * (len(LABELS) - 1)], np.float32)
    computed = Computed(({PROBABILITIES: shares, LOGITS: logits},), THRESHOLD)
    return Classification(MODEL, (ImageResult(Timing()),), LABELS, computed)


def answered(given: Classification, request_id: str = "r") -> Answered:
    first = first_of(given, 0)
    assert first is not None
    return Answered(request_id, 0, PNG, given, first)


class Kept:
    """A sampler, and the facts of what it has kept, once its writer has written all."""

    def __init__(self, path: Path, metrics: Metrics, sample: float = 1.0, **values: Any) -> None:
        self.clock, self.metrics = Clock(), metrics
        self.folder = SampleFolder(path, Limits(1000, 1 << 30, 3600.0))
        self.writer = Writer(self.folder, metrics.labelling)
        asked = settings(samples=path, **values)
        self.sampler = Sampler(asked, self.writer, metrics.labelling, sample=lambda: sample, clock=self.clock)
        self.writer.start()

    def facts(self, request_id: str = "r") -> Facts | None:
        return self.writer.call(lambda folder: folder.facts(sample_name(request_id, 0))).result(60)

    def dropped(self, cause: str) -> float | None:
        return self.metrics.registry.get_sample_value("glimpse_samples_dropped_total", {"cause": cause})


@pytest.mark.parametrize(
    ("given", "sample", "values", "reasons"),
    [
        (answer(0.9), 0.5, {"samples_share": 0.4}, None),
        (answer(0.9), 0.3, {"samples_share": 0.4}, ["random"]),
        (answer(0.45, 0.4), 1.0, {}, ["near"]),
        (answer(0.45, 0.4), 1.0, {"samples_margin": 0.01}, None),
        (answer(0.9, top_logit=3.9), 1.0, {}, ["near", "unknown"]),
        (answer(0.9, top_logit=4.1), 1.0, {}, ["near"]),
        (answer(0.9, top_logit=1.0), 1.0, {}, ["unknown"]),
        (answer(0.9, top_logit=1.0), 1.0, {"samples_reasons": "random,near"}, None),
        (answer(0.45, 0.4, top_logit=1.0), 0.0, {}, ["random", "near", "unknown"]),
    ],
)
def test_an_image_is_kept_for_what_its_answer_is_like(
    tmp_path: Path, given: Classification, sample: float, values: dict[str, Any], reasons: list[str] | None
) -> None:
    kept = Kept(tmp_path, Metrics(), sample, **values)
    kept.sampler.offer(answered(given))
    facts = kept.facts()
    assert (None if facts is None else facts["reasons"]) == reasons


@pytest.mark.parametrize(
    ("factor", "offset"), [(1.0, 0.0), (0.01, 0.0), (1.0, 300.0), (1.0, 4.5)], ids=["", "small", "far from 0", "at 0"]
)
def test_how_near_a_threshold_is_follows_from_scores_of_known_images(factor: float, offset: float) -> None:
    """Whatever their scale: of a hundred known images those five that are within, and as far above."""
    scores = factor * np.linspace(-14.0, -4.0, 101) + offset
    fitted = NoveltyThreshold(score="max_logit", threshold=float(scores[95]))
    found = []
    for score in (*scores[85:], scores[95] + 0.55 * factor):
        outputs = {PROBABILITIES: np.array([0.9, 0.1], np.float32), LOGITS: np.array([-score, -score - 9.0])}
        computed = Computed((outputs,), fitted, known=Bins.of(scores))
        first = first_of(Classification(MODEL, (ImageResult(Timing()),), LABELS, computed), 0)
        assert first is not None
        found.append(first.at_threshold)
    assert [85 + i for i, near in enumerate(found[:11]) if near] == [91, 92, 93, 94, 95]
    assert not found[-1], "it is as far above"


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "near"),
    [
        ((0.99, 0.98, 0.01), (0.5, 0.5, 0.5), False),  # two labels, and both surely
        ((0.01, 0.02, 0.03), (0.5, 0.5, 0.5), False),  # surely none
        ((0.99, 0.46, 0.01), (0.5, 0.5, 0.5), True),
        ((0.99, 0.44, 0.01), (0.5, 0.5, 0.5), False),
        ((0.01, 0.01, 0.01), (0.05, 0.05, 0.05), False),  # of a rare label
        ((0.01, 0.01, 0.052), (0.05, 0.05, 0.05), True),
        ((0.0, 1.0, 0.01), (0.0, 1.0, 0.5), False),
    ],
)
def test_labels_are_near_that_are_near_their_own_thresholds(
    tmp_path: Path, probabilities: tuple[float, ...], thresholds: tuple[float, ...], *, near: bool
) -> None:
    """Those of a multi-label model, whose second label is no rival of the first."""
    outputs = {PROBABILITIES: np.array(probabilities, np.float32)}
    computed = Computed((outputs,), None, np.array(thresholds, np.float32))
    kept = Kept(tmp_path, Metrics())
    kept.sampler.offer(answered(Classification(MODEL, (ImageResult(Timing()),), LABELS, computed)))
    facts = kept.facts()
    assert (facts is not None) == near
    assert facts is None or facts["reasons"] == ["near"]


def test_an_image_of_which_two_versions_disagree_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Metrics())
    told = kept.sampler.disagreed(answered(answer(0.9)))
    assert told is not None
    told("2", LABELS[3], 0.7)
    facts = kept.facts()
    assert facts is not None
    assert facts["reasons"] == ["disagreement"]
    assert facts["other"] == {"version": "2", "label": "d", "probability": 0.7}
    assert facts["first"][0] == {"index": 0, "label": "a", "class_id": "", "probability": 0.9}
    without = Kept(tmp_path / "other", Metrics(), samples_reasons="random")
    assert without.sampler.disagreed(answered(answer(0.9))) is None


def test_no_more_are_kept_in_a_minute_than_may_be(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Metrics(), 0.0, samples_per_minute=6)
    for number in range(10):
        kept.sampler.offer(answered(answer(0.9), f"a{number}"))
    assert kept.dropped("rate") == 4
    kept.clock.now += 20
    for number in range(3):
        kept.sampler.offer(answered(answer(0.9), f"b{number}"))
    assert [kept.facts(f"b{number}") is not None for number in range(3)] == [True, True, False]


def test_a_disk_that_hangs_has_samples_dropped_and_nobody_wait(tmp_path: Path) -> None:
    metrics, go = Metrics(), threading.Event()
    kept = Kept(tmp_path, metrics)
    hung = kept.writer.call(lambda _: go.wait(60))
    for number in range(80):
        kept.writer.put(Sample(f"{number:032x}", PNG, {"reasons": ["random"]}))
    assert kept.dropped("busy") == 80 - 64
    kept.writer.put(Sample("large", EncodedImage(bytes(65 << 20)), {"reasons": ["random"]}))
    assert kept.dropped("busy") == 80 - 64 + 1
    go.set()
    assert hung.result(60)
    kept.writer.close(60)
    assert metrics.registry.get_sample_value("glimpse_samples_images") == 64


def test_an_image_that_cannot_be_read_is_dropped_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Metrics())
    kept.writer.put(Sample("a", EncodedImage(b"GIF89a"), {"reasons": ["random"]}))
    kept.writer.put(Sample(sample_name("r", 0), PNG, {"reasons": ["random"]}))
    assert kept.facts() is not None
    assert kept.dropped("unreadable") == 1


def test_a_json_file_that_somebody_has_spoiled_costs_its_sample_alone(tmp_path: Path) -> None:
    """It is kept for another reason, to be added to those that it has."""
    kept = Kept(tmp_path, Metrics(), 0.0)
    kept.sampler.offer(answered(answer(0.9)))
    facts = kept.facts()
    assert facts is not None
    (side,) = tmp_path.glob("*.json")
    side.write_text(json.dumps({**facts, "reasons": None}))
    kept.sampler.offer(answered(answer(0.9)))
    kept.sampler.offer(answered(answer(0.9), "other"))
    assert kept.facts("other") is not None
    assert kept.dropped("disk") == 1


def test_the_true_classes_of_many_images_wait_for_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs does not hold up a call for as long as each of its images may wait."""
    monkeypatch.setattr(labelling_feedback, "_DISK_SECONDS", 0.2)
    go, metrics = threading.Event(), Metrics()
    kept = Kept(tmp_path, metrics)
    hung = kept.writer.call(lambda _: go.wait(600))
    registry: Any = SimpleNamespace()
    access = AccessControl(settings(feedback="*"))
    feedback = Feedback(access, registry, RecentAnswers(10, 100), metrics.labelling, kept.writer)

    async def run() -> list[Told]:
        async with asyncio.timeout(8):
            given = [TrueClass("r", image, "cat") for image in range(64)]
            return await feedback.give(CallContext("r", "m", "ipv4:192.0.2.1:1"), given)

    try:
        assert asyncio.run(run()) == [Told(Outcome.UNKNOWN_REQUEST)] * 64
    finally:
        go.set()
    assert hung.result(60)


def test_the_first_five_classes_are_in_order_and_equal_ones_by_index() -> None:
    first = first_of(answer(0.2, 0.5), 0)
    assert first is not None
    assert first.classes == (1, 0, 2, 3, 4)
    assert first.margin == pytest.approx(0.3)
    assert first_of(Classification(MODEL, (ImageResult(Timing()),)), 0) is None


def first(*classes: int) -> First:
    return First(classes, (0.1,) * len(classes), None)


def test_answers_are_remembered_within_bounds_of_number_and_age() -> None:
    clock = Clock()
    recent = RecentAnswers(5, 100.0, clock=clock)
    recent.remember("a", MODEL, [first(1, 2), None], LABELS)
    clock.now = 50
    recent.remember("b", MODEL, [first(3)], LABELS)
    found = recent.find("a")
    assert found is not None
    assert [[*found.first(0)], [*found.first(1)], len(found)] == [[1, 2], [], 2]
    assert [found.tell(1), found.tell(0), found.tell(1)] == [True, True, False]
    recent.remember("c", MODEL, [first(4)] * 3, LABELS)
    assert (recent.find("a"), len(recent)) == (None, 4)
    recent.remember("b", MODEL, [first(5)], LABELS)  # the same id once more
    again = recent.find("b")
    assert again is not None
    assert again.first(0) == {5: LABELS[5]}
    assert len(recent) == 4
    clock.now = 151
    assert (recent.find("b"), recent.find("c"), len(recent)) == (None, None, 0)


def test_feedback_goes_by_names_where_the_version_has_been_replaced() -> None:
    """Its successor has one class more, so that the indices of the others are other ones."""
    labels = tuple(ClassLabel(name) for name in ("aa", *"abcdefg"))
    by_name = {each.label: frozenset({index}) for index, each in enumerate(labels)}
    loaded = SimpleNamespace(
        identity=replace(MODEL, version="2"),
        bundle=SimpleNamespace(labels=labels),
        classes=SimpleNamespace(find=by_name.__getitem__),
    )
    recent = RecentAnswers(10, 100)
    recent.remember("r", MODEL, [first(1, 2), first(1, 2), first(1, 2)], LABELS)
    registry: Any = SimpleNamespace(resolve=lambda _: loaded)
    feedback = Feedback(AccessControl(settings()), registry, recent, Metrics().labelling, None)
    told = [feedback.compare(TrueClass("r", image, name)) for image, name in enumerate(("b", "c", "a"))]
    assert told == [Told(Outcome.FIRST, "b"), Told(Outcome.AMONG_FIVE, "c"), Told(Outcome.OTHER, "a")]


def test_a_worker_that_says_nothing_leaves_its_images_unknown() -> None:
    """Another one answers, a third one never does; what is told later finds nobody who waits."""
    known, unknown = TrueClass("known", 0, "cat"), TrueClass("unknown", 0, "cat")
    told = Told(Outcome.FIRST, "cat")
    to_other: list[dict[str, Any]] = []

    def answer_to(body: dict[str, Any]) -> bool:
        asking.heard(body)
        return True

    other = Exchange(answer_to, 3, lambda each: told if each == known else None)

    def tell(body: dict[str, Any]) -> bool:
        to_other.append(body)
        other.heard(body)
        return True

    asking = Exchange(tell, 3, lambda _: None, seconds=0.2)

    async def run() -> None:
        assert await asking.ask([known, unknown]) == [told, None]
        assert await asking.ask([known]) == [told]
        asking.heard({"do": "feedback", "ask": to_other[0]["ask"], "told": [None, None]})

    asyncio.run(run())


def test_only_those_whom_the_setting_names_may_give_feedback() -> None:
    call = CallContext("r", "m", "ipv4:192.0.2.1:1")
    for feedback, identity, allowed in (
        ("", "anna", False),
        ("anna,ben", "anna", True),
        ("anna", "carl", False),
        ("anna", "", False),
        ("*", "", True),
    ):
        access = AccessControl(settings(feedback=feedback))
        call.identity = identity
        if allowed:
            access.check_feedback(call)
        else:
            with pytest.raises(PermissionDeniedError, match="GLIMPSE_FEEDBACK"):
                access.check_feedback(call)


def test_a_server_whose_callers_have_no_identity_says_who_may_not() -> None:
    with structlog.testing.capture_logs() as log:
        for feedback in ("anna", "*", ""):
            AccessControl(settings(feedback=feedback))
    (said,) = log
    assert said["event"] == "nobody may give feedback"
    assert "GLIMPSE_FEEDBACK" in said["detail"]
