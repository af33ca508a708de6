"""Connections of callers who take nothing are closed, also where that is not possible at once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection

import pytest

from glimpse.server.access.closing import Closing
from glimpse.server.sockets import connections
from glimpse.server.sockets.connections import Endpoint


def test_a_connection_that_cannot_be_closed_now_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[Endpoint]] = []

    def close_all(_: int, peers: Collection[Endpoint]) -> set[Endpoint]:
        asked.append(set(peers))
        if len(asked) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return set(peers)

    async def closed() -> None:
        closing = Closing()
        closing.ports.append(1)
        closing.close("ipv4:192.0.2.1:4000")
        assert closing._task is not None
        await closing._task

    monkeypatch.setattr(connections, "close_all", close_all)
    asyncio.run(closed())
    assert asked == [{Endpoint("192.0.2.1", 4000)}] * 3
