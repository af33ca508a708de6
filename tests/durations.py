"""How long tests take, from a report of pytest: which files `make test` begins first, and which tests are the slowest.

A file is run by one process. If a long one were begun last, the other processes would wait for it, so that files are
begun in the order of their seconds (`first_the_longest`, which tests/conftest.py calls). Renew the record after a
change that made tests faster or slower, on a machine that does nothing else:

    make test ARGS="--junitxml=.cache/tests.xml"
    .venv/bin/python -m tests.durations .cache/tests.xml

This writes tests/durations.json and the table of the slowest tests in CONTRIBUTING.md.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "durations.json"
PAGE = ROOT / "CONTRIBUTING.md"
_SLOWEST = 20
_BEGIN, _END = "<!-- slowest tests: written by tests/durations.py -->", "<!-- end of the slowest tests -->"
_RECORDED = 1.0  # seconds; what takes less may come at any time


@functools.cache
def recorded() -> dict[str, float]:
    """Seconds by file, relative to the root; those of other files do not matter."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8")))


def first_the_longest(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The same tests, those of a file together, the files that take longest first, the others as they were."""
    seconds = recorded()
    return sorted(items, key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0.0))


def measured(report: ET.Element) -> dict[tuple[str, str], float]:
    """Seconds of each test with its set-up and its end, by file and name, of a report in JUnit's format."""
    return {
        (_file(case.attrib["classname"]), case.attrib["name"]): float(case.attrib["time"])
        for case in report.iter("testcase")
    }


def by_file(seconds: dict[tuple[str, str], float]) -> dict[str, float]:
    """Seconds of the files that are worth recording, the longest first."""
    sums: dict[str, float] = {}
    for (file, _), each in seconds.items():
        sums[file] = sums.get(file, 0.0) + each
    longest = sorted(sums.items(), key=lambda entry: -entry[1])
    return {file: round(whole, 1) for file, whole in longest if whole >= _RECORDED}


def table(seconds: dict[tuple[str, str], float]) -> str:
    """The slowest tests, for a page."""
    slowest = sorted(seconds.items(), key=lambda entry: -entry[1])[:_SLOWEST]
    lines = [f"| {each:.1f} | `{file}` | `{name}` |" for (file, name), each in slowest]
    said = "The slowest tests, with what they share with those that follow them:"
    return "\n".join([said, "", "| seconds | file | test |", "| ---: | --- | --- |", *lines])


def _file(name: str) -> str:
    """tests.server.test_life -> tests/server/test_life.py."""
    return name.replace(".", "/") + ".py"


def main(report: str) -> None:
    """Write the record and the table."""
    seconds = measured(ET.parse(report).getroot())  # noqa: S314 - pytest wrote it
    RECORD.write_text(json.dumps(by_file(seconds), indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    text, found = re.subn(
        f"{re.escape(_BEGIN)}.*{re.escape(_END)}",
        lambda _: f"{_BEGIN}\n\n{table(seconds)}\n\n{_END}",
        text,
        flags=re.DOTALL,
    )
    assert found == 1, f"{PAGE.name} has no place for the table"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
