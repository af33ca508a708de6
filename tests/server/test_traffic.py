"""Which version answers a request, and what is copied: real queues and decoders, networks of the test's own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from glimpse.models.decoding.cost import Cost
from glimpse.server.access.call_context import CallContext
from glimpse.server.access.call_metadata import read_metadata
from glimpse.server.admission import Admission, Permits
from glimpse.server.answers import explanations
from glimpse.server.answers.occlusion import COPIES
from glimpse.server.domain import Caller, ClassifyRequest, Explain, ModelSelector
from glimpse.server.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    Reason,
)
from glimpse.server.fair_queue import Lane
from glimpse.server.repository.rollout import Kind, Terms
from glimpse.server.service import Service
from tests.server.traffic_scene import CALLER, LONG, PHOTO, Scene, run


def test_only_requests_that_name_no_version_are_divided() -> None:
    async def do(made: Scene) -> None:
        assert not made.traffic.divided(ModelSelector())
        made.roll_out(Kind.CANARY)
        assert made.traffic.divided(ModelSelector())
        assert made.traffic.divided(ModelSelector("cifar"))
        assert not made.traffic.divided(ModelSelector("cifar", "1"))
        assert not made.traffic.divided(ModelSelector("cifar", "stable"))
        assert not made.traffic.divided(ModelSelector("other"))

    run(do)


def test_explanations_are_counted_as_the_version_makes_them_that_answers() -> None:
    """By class activation maps in one version, and by occlusion in the other one, which has none."""
    counted: list[int] = []

    class Access:
        rates = object()

        def take(self, call: CallContext, _: int, **__: float) -> float:
            counted.append(call.counted)
            raise OverloadedError(Reason.RATE_LIMITED, "", retry_after=1.0)

    async def do(made: Scene) -> None:
        usual = made.models["1"]
        made.registry.put(replace(usual, network=replace(usual.network, maps=(8, 8))))
        calls: Any = SimpleNamespace(metrics=made.metrics, access=Access())
        pipeline: Any = SimpleNamespace(
            costs=lambda _: [Cost(1, 1, 1, expensive=False)],
            copies=lambda request: explanations.copies(request, made.registry.resolve(request.model)),
        )
        service = Service(
            calls,
            Admission(Permits(64, 1, 1), streams=1, retry_after=lambda *_: 0.0),
            pipeline,
            made.registry,
            stream_window=1,
            traffic=made.traffic,
        )
        request = ClassifyRequest((PHOTO,), explain=Explain())
        for share in (1e-9, 1.0):
            made.roll_out(Kind.CANARY, share=share)
            call = CallContext("", "", "ipv4:192.0.2.1:40000", images=1)
            with pytest.raises(OverloadedError):
                await service.classify(request, call, CALLER)
        assert counted == [1, 1 + COPIES]

    run(do)


def test_a_canary_that_is_not_loaded_gets_nothing() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY)
        assert await made.classify() == "2"
        made.registry.take("cifar", "2")
        assert await made.classify() == "1"
        assert (canary.new.answered, canary.new.failed, canary.usual.answered) == (1, 0, 1)

    run(do)


def test_what_only_the_canary_refuses_is_answered_and_counts_as_its_error() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.1, min_requests=3)
        made.errors["2"] = InvalidRequestError(Reason.TOP_K_OUT_OF_RANGE, "", field="")
        assert [await made.classify() for _ in range(3)] == ["1", "1", "1"]
        assert canary.new.failed == 3
        assert "3 of its last 3 requests failed" in canary.terms.rolled_back
        assert made.answered_by == ["2", "1"] * 3
        assert not made.traffic.divided(ModelSelector())

    run(do)


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (FailedPreconditionError(Reason.MODEL_NOT_LOADED, "could not be loaded again"), 3),
        (OverloadedError(Reason.MEMORY_FULL, "sleeps", retry_after=1.0), 0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_usual_version_answers_for_a_canary_that_cannot_be_woken(error: Exception, failed: int) -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.1, min_requests=3)
        made.errors["2"] = error
        assert [await made.classify() for _ in range(3)] == ["1", "1", "1"]
        assert canary.new.failed == failed
        assert canary.running is not bool(failed)

    run(do)


def test_what_both_versions_refuse_is_the_callers_error() -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.0, min_requests=1)
        made.errors |= dict.fromkeys("12", InvalidRequestError(Reason.TOP_K_OUT_OF_RANGE, "", field=""))
        with pytest.raises(InvalidRequestError):
            await made.classify()
        assert (canary.new.failed, canary.usual.failed, canary.running) == (0, 0, True)

    run(do)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (InternalError(""), True),
        (DeadlineExceededError(""), True),
        (ZeroDivisionError(), True),
        (OverloadedError(Reason.QUEUE_FULL, "", retry_after=1.0), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_errors_of_the_server_roll_a_canary_back(error: Exception, *, counts: bool) -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY, max_error_rate=0.02, min_requests=2)
        made.errors["2"] = error
        for _ in range(2):
            with pytest.raises(type(error)):
                await made.classify()
        assert canary.running is not counts
        assert canary.new.failed == 2 * counts
        if counts:
            made.rollouts.put("cifar", Kind.SHADOW, Terms("2", 0.1), "1")  # so that it is divided at all
            assert await made.classify() == "1"

    run(do)


@pytest.mark.parametrize(("left", "failed"), [(-1.0, 1), (LONG, 0), (None, 0)])
def test_a_deadline_that_passes_counts_and_a_caller_who_leaves_does_not(left: float | None, failed: int) -> None:
    async def do(made: Scene) -> None:
        canary = made.roll_out(Kind.CANARY)
        made.errors["2"] = asyncio.CancelledError()
        caller = Caller(Lane("somebody"), None if left is None else time.monotonic() + left)
        with pytest.raises(asyncio.CancelledError):
            await made.classify(caller=caller)
        assert canary.new.failed == failed

    run(do)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ([], ""),
        ([("x-request-id", "one")], "one"),
        ([("x-request-id", "one"), ("glimpse-key", "user 7")], "user 7"),
        ([("glimpse-key", "user 7"), ("glimpse-key", "user 8")], "user 7"),
        ([("glimpse-key", "x" * 129)], ""),
        ([("glimpse-key", "a\nb"), ("x-request-id", "one")], "one"),
    ],
)
def test_the_key_of_a_call_is_what_it_says_else_its_id(metadata: list[tuple[str, str]], key: str) -> None:
    call, _ = read_metadata(metadata, "", "ipv4:192.0.2.1:40000", None)
    assert call.key == key
