"""The record of how long files of tests take, and what is made of a report of pytest."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests import durations

REPORT = ET.fromstring(  # noqa: S314 - ours
    """<testsuites><testsuite>
    <testcase classname="tests.server.test_life" name="test_a[x]" time="1.50" />
    <testcase classname="tests.server.test_life" name="test_b" time="0.75"><skipped /></testcase>
    <testcase classname="tests.test_quick" name="test_c" time="0.25" />
    <testcase classname="tests.test_long" name="test_d" time="20.5" />
    </testsuite></testsuites>"""
)


def test_files_are_recorded_by_their_seconds_the_longest_first() -> None:
    found = durations.by_file(durations.measured(REPORT))
    assert list(found.items()) == [("tests/test_long.py", 20.5), ("tests/server/test_life.py", 2.2)]


def test_the_slowest_tests_are_told_with_their_files() -> None:
    lines = durations.table(durations.measured(REPORT)).splitlines()
    assert lines[4] == "| 20.5 | `tests/test_long.py` | `test_d` |"
    assert lines[5] == "| 1.5 | `tests/server/test_life.py` | `test_a[x]` |"


def test_every_file_that_is_recorded_exists() -> None:
    assert durations.recorded()
    assert [file for file in durations.recorded() if not (durations.ROOT / file).is_file()] == []


def test_the_page_has_a_place_for_the_slowest_tests() -> None:
    text = durations.PAGE.read_text(encoding="utf-8")
    assert text.count(durations._BEGIN) == text.count(durations._END) == 1
