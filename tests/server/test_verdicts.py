"""Two versions of a multi-label model agree where they tell the same labels of an image."""

from __future__ import annotations

import pytest

from glimpse.server.repository.verdicts import Verdicts


@pytest.mark.parametrize(
    ("passed", "complete", "told", "agrees"),
    [
        ({"cat": True, "dog": True}, True, {"cat", "dog"}, True),
        ({"cat": True}, True, {"cat", "dog"}, False),  # the other one tells more
        ({"cat": True, "dog": True}, True, {"cat"}, False),
        ({}, True, set(), True),  # no label at all is an answer, too
        ({}, True, {"cat"}, False),
        ({"cat": True, "dog": False}, False, {"cat", "grass"}, True),  # of grass the answer did not speak
        ({"cat": True, "dog": False}, False, {"cat", "dog"}, False),
    ],
)
def test_versions_agree_where_they_tell_the_same_labels(
    *, passed: dict[str, bool], complete: bool, told: set[str], agrees: bool
) -> None:
    assert Verdicts(passed, complete).agrees(frozenset(told)) is agrees
