"""Which of many variations of a test `make test` runs; `.ci/run` runs all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

# For a fixture of a server, which makes it one of so many workers: what holds for one process holds for several.
ONE_PROCESS_AND_TWO_WORKERS = [
    pytest.param(1, id="one process"),
    pytest.param(
        2,
        id="two workers",
        marks=[
            pytest.mark.ci,
            pytest.mark.skipif(sys.platform != "linux", reason="several processes share a port on Linux only"),
        ],
    ),
]
# For a test that starts servers of its own: each with that many workers.
with_two_workers_too = pytest.mark.parametrize("start_server", ONE_PROCESS_AND_TWO_WORKERS, indirect=True)


def mostly_in_ci(values: Iterable[Any], *by_default: Any) -> list[Any]:
    """The values of a parametrized test, all but those named marked for `make test-ci`; a tuple is several arguments.

    Raises:
        ValueError: one that is named is not among the values, so that the test would not run at all by default.
    """
    every = list(values)
    if missing := [value for value in by_default if value not in every]:
        raise ValueError(f"{missing} are not among {every}")
    return [value if value in by_default else _in_ci(value) for value in every]


def _in_ci(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.ci)
