"""Servers with an HTTP port: in the test's own process, whose network and decoding a test can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import RunningServer
from tests.server.access.conftest import inside, loop
from tests.server.http.asking import port_of
from tests.server.rig import Rig


@pytest.fixture
def start_rig() -> Iterator[Callable[..., Rig]]:
    """Start servers of a test's own, whose network answers unless the test holds it."""
    running: list[Rig] = []
    with pytest.MonkeyPatch.context() as patch:

        def start(*arguments: str) -> Rig:
            running.append(Rig(patch, "--http-port=0", *arguments))
            running[-1].network.let()
            return running[-1]

        yield start
        for each in running:
            each.close()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A server that tests of a file share, and leave as they found it."""
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of requests that come to nothing are a flood, where other programs keep the machine busy.
        made = Rig(patch, "--http-port=0", "--allow-geometries=pad", "--no-flood-guard")
        made.network.let()
        yield made
        made.close()


@pytest.fixture(scope="module")
def port(rig: Rig) -> int:
    """Its HTTP port."""
    return port_of(rig)


@pytest.fixture(scope="session")
def http_port(server: RunningServer) -> int:
    """The HTTP port of the shared server, whose network is a real one."""
    return int(server.http.rpartition(":")[2])


__all__ = ["inside", "loop"]  # fixtures
