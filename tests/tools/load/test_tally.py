"""The book-keeping of a soak: a promise that is broken must be found broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glimpse.v1 import classifier_pb2 as pb
from tools.load import kinds, parts, samples
from tools.load.kinds import BURST
from tools.load.pictures import Picture
from tools.load.report import Report
from tools.load.samples import Sample
from tools.load.tally import Tally, judge, open_calls, quiet
from tools.load.wire import ANSWERED, Outcome, compare

IDLE = {
    "glimpse_images_in_flight": 0.0,
    "glimpse_image_bytes_in_flight": 0.0,
    "glimpse_queue_depth": 0.0,
    "grpc_server_started_total,grpc_method=Classify": 0.0,
    "grpc_server_handled_total,grpc_code=OK": 0.0,
    **{f"glimpse_images_total,outcome={name}": 0.0 for name in ("classified", "refused", "cancelled", "failed")},
}


def broken(tally: Tally, **after: float) -> set[str]:
    """The promises that do not hold when the server has counted `after`."""
    report = Report("a run")
    judge(tally, IDLE, IDLE | {name.replace("__", ","): value for name, value in after.items()}, report)
    return {promise.text for promise in report.broken}


def counted(**values: float) -> dict[str, float]:
    names = {"classified", "refused", "cancelled", "failed"}
    return {f"glimpse_images_total,outcome={name}": value for name, value in values.items() if name in names}


@pytest.fixture
def tally() -> Tally:
    """Three images classified, one refused, one left by its caller."""
    found = Tally()
    found.add("32 images", Outcome(ANSWERED, classified=3, refused=("TRUNCATED_IMAGE",)))
    found.add("left by its caller", Outcome("CANCELLED", unsure=1))
    return found


TRUNCATED = "glimpse_images_refused_total,reason=TRUNCATED_IMAGE"


def test_equal_counts_hold_whether_or_not_the_caller_who_left_was_counted(tally: Tally) -> None:
    for left in (0, 1):
        after = counted(classified=3, refused=1, cancelled=left) | {TRUNCATED: 1.0}
        assert broken(tally, **after) == set()


def test_an_image_that_nobody_sent_and_one_that_vanished_are_found(tally: Tally) -> None:
    every = "every image that was admitted ended in exactly one outcome"
    assert every in broken(tally, **counted(classified=3, refused=1, cancelled=2), **{TRUNCATED: 1.0})
    assert every in broken(tally, **counted(classified=2, refused=1), **{TRUNCATED: 1.0})


def test_answers_that_the_server_did_not_count_are_found(tally: Tally) -> None:
    after = counted(classified=2, refused=1, cancelled=2)
    assert "the server classified what callers got" in broken(tally, **after, **{TRUNCATED: 1.0})


def test_a_refusal_for_another_reason_than_the_caller_was_told_is_found(tally: Tally) -> None:
    after = counted(classified=3, refused=1) | {"glimpse_images_refused_total,reason=CORRUPT_IMAGE": 1.0}
    assert broken(tally, **after) == {"images were refused for the reasons that callers were told"}


def test_a_rejection_that_the_server_did_not_count_is_found(tally: Tally) -> None:
    tally.add("bad options", Outcome("INVALID_ARGUMENT NO_IMAGES", rejected=("NO_IMAGES",)))
    after = counted(classified=3, refused=1) | {TRUNCATED: 1.0}
    assert broken(tally, **after) == {"requests were rejected for the reasons that callers were told"}
    assert broken(tally, **after, **{"glimpse_requests_rejected_total,reason=NO_IMAGES": 1.0}) == set()


def test_only_an_oversized_message_may_be_no_message_to_the_server(tally: Tally) -> None:
    """An oversized message may be one without a message to the server, and nothing else may."""
    after = counted(classified=3, refused=1) | {
        TRUNCATED: 1.0,
        "glimpse_requests_rejected_total,reason=MALFORMED_MESSAGE": 1.0,
    }
    assert broken(tally, **after) == {"requests were rejected for the reasons that callers were told"}
    tally.add("oversized message", Outcome("INVALID_ARGUMENT MESSAGE_TOO_LARGE"))
    assert broken(tally, **after) == set()


def test_a_call_that_has_not_ended_and_a_byte_that_stays_are_found(tally: Tally) -> None:
    after = counted(classified=3, refused=1) | {
        TRUNCATED: 1.0,
        "grpc_server_started_total,grpc_method=Classify": 1.0,
        "glimpse_image_bytes_in_flight": 1.0,
    }
    assert broken(tally, **after) == {
        "every call that began has ended",
        "nothing is in flight at the end, not a byte",
    }


def test_an_outcome_that_its_request_may_not_have_is_found(tally: Tally) -> None:
    tally.add("small photo", Outcome("UNAVAILABLE", detail="connection reset"))
    after = counted(classified=3, refused=1) | {TRUNCATED: 1.0}
    assert broken(tally, **after) == {"every outcome is of a kind that its request may have"}
    assert tally.surprises == ["small photo: UNAVAILABLE connection reset"]


def test_a_full_queue_is_expected_of_a_burst_alone() -> None:
    full = "RESOURCE_EXHAUSTED QUEUE_FULL"
    assert [kind for kind, expected in kinds.EXPECTED.items() if full in expected] == [BURST]


def test_calls_that_were_open_before_may_end_and_may_stay(tally: Tally) -> None:
    after = counted(classified=3, refused=1) | {TRUNCATED: 1.0}
    assert broken(tally, **after, **{"grpc_server_handled_total,grpc_code=OK": 1.0}) == set()
    assert open_calls({"grpc_server_started_total,grpc_method=Watch": 3.0, "grpc_server_handled_total,code=OK": 1}) == 2


def test_a_server_is_quiet_when_it_has_nothing_to_do() -> None:
    assert quiet(IDLE)
    assert not quiet(IDLE | {"glimpse_queue_depth": 1.0})


def test_an_answer_is_right_when_each_image_has_its_label_or_its_refusal() -> None:
    cat = pb.ImageResult(predictions=[pb.Prediction(label="cat", probability=0.9)])
    bad = pb.ImageResult(error=pb.ImageError(reason="TRUNCATED_IMAGE"))
    wanted = [Picture(pb.Image(), "cat"), Picture(pb.Image(), "!TRUNCATED_IMAGE")]
    assert compare([cat, bad], wanted) == Outcome(ANSWERED, classified=1, refused=("TRUNCATED_IMAGE",))
    assert compare([bad, cat], wanted).name == "WRONG"
    assert compare([cat], wanted).name == "WRONG"


def test_growth_is_from_the_first_samples_to_the_last_whatever_lies_between() -> None:
    """Growth is from the first samples to the last, whatever peaks lie between."""
    rss = [100, 102, 104, 900, 109, 110, 111]
    assert samples.growth([Sample(i, value, 1, 1) for i, value in enumerate(rss)]) == 8
    with pytest.raises(ValueError, match="two samples or more"):
        samples.growth([Sample(0, 1, 1, 1)])


def test_the_warm_up_does_not_count() -> None:
    seen = [Sample(requests, 1, 1, 1) for requests in (0, 5, 10, 50, 100)]
    assert [one.requests for one in samples.after_warm_up(seen, 100)] == [10, 50, 100]


def test_a_sample_counts_the_files_and_threads_of_a_process(tmp_path: Path) -> None:
    before = samples.of_process(os.getpid())
    with (tmp_path / "a file").open("w"):
        assert samples.of_process(os.getpid()).fds == before.fds + 1
    assert before.rss > 1_000_000
    assert before.threads >= 1


def test_a_sample_of_a_tree_holds_the_children_and_their_files_too() -> None:
    before = samples.of_tree(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        alone = samples.of_process(child.pid)
        after = samples.of_tree(os.getpid())
        assert parts.gone(child.pid) is False
        child.communicate(b"\n", timeout=60)
    assert after.processes == before.processes + 1
    assert after.fds >= before.fds + alone.fds
    assert after.threads > before.threads
    assert parts.gone(child.pid)
