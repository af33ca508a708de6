"""Servers inside the test's process, and who signs their certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.server.access.authority import Authority
from tests.server.access.inside import Inside, Loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """Where the servers run."""
    running = Loop()
    yield running
    running.close()


@pytest.fixture
def inside(loop: Loop) -> Iterator[Callable[..., Inside]]:
    """Start servers of a test's own, by their settings; they are ended with it."""
    started: list[Inside] = []

    def start(**settings: object) -> Inside:
        started.append(Inside(loop, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Who signs."""
    return Authority()
