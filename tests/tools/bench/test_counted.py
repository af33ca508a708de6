"""What a call costs the event loop, counted."""

from __future__ import annotations

import sys

import pytest

from tools.bench import counted
from tools.bench.worker import ROOT

# Of a call with one raw image, and what each further image of a call adds; a count is the same on any machine.
MOST, MOST_AN_IMAGE = 6270, 2300


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("/any/src/glimpse/server/access/uploads.py", "call"),
        ("/any/src/glimpse/server/pipeline.py", "request"),
        ("/any/src/glimpse/models/decoding/cost.py", "pixels"),
        ("/usr/lib/python3.11/concurrent/futures/_base.py", "hand over"),
        ("/usr/lib/python3.11/asyncio/tasks.py", "other"),
        ("<string>", "values"),
    ],
)
def test_a_file_belongs_to_a_part(file: str, part: str) -> None:
    assert counted.part(file) == part


def test_checkouts_are_compared_with_the_first() -> None:
    found = {"old": {"call": 100.0, "request": 100.0, "us": 9.0}, "new": {"call": 100.0, "log": 50.0, "us": 8.0}}
    head, _, old, new = counted.table(found).splitlines()
    assert head == "| checkout | all | call | log | request | ratio | us, the least |"
    assert old == "| old | 200 | 100 | 0 | 100 | 1.000 | 9 |"
    assert new == "| new | 150 | 100 | 50 | 0 | 0.750 | 8 |"


@pytest.mark.ci
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each version of Python has bytecodes of its own")
def test_a_call_runs_no_more_python_than_it_did() -> None:
    one, eight = (
        sum(count for part, count in counted.counted(ROOT, images).items() if part != "us") for images in (1, 8)
    )
    assert one < MOST
    assert (eight - one) / 7 < MOST_AN_IMAGE
