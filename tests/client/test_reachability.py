"""A server that has answered a client and is not serving, or has gone, gets some time to come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from glimpse.client import AsyncClient, Client, UnavailableError
from glimpse.client.reachability import RETURN_SECONDS, Reachability
from tests.client.loops import on_a_loop
from tests.client.scripted import ScriptedServer

_AWAY = 2.5  # seconds; longer than gRPC repeats calls by itself, or the four streams of a run that was never answered


@contextmanager
def away_for_a_while(server: ScriptedServer) -> Iterator[None]:
    """The server says that it is not serving, and after some seconds that it is."""
    server.serving(yes=False)
    coming = threading.Timer(_AWAY, server.serving, kwargs={"yes": True})
    coming.start()
    try:
        yield
    finally:
        coming.join()


def test_who_never_answered_is_not_expected() -> None:
    reachability = Reachability()
    assert not reachability.expected(100.0)
    assert reachability.expected_until(100.0) == 100.0


def test_who_has_answered_is_expected_for_a_while_from_the_first_failure_on() -> None:
    """Later failures do not prolong it; an answer begins anew."""
    reachability = Reachability()
    reachability.answered()
    assert reachability.expected(1000.0)
    for now in (1000.0, 1005.0, 1100.0):
        assert reachability.expected_until(now) == 1000.0 + RETURN_SECONDS
    assert not reachability.expected(1000.0 + RETURN_SECONDS)
    reachability.answered()
    assert reachability.expected_until(2000.0) == 2000.0 + RETURN_SECONDS


@pytest.mark.ci
def test_the_only_server_may_be_away_for_a_while_and_no_call_fails(scripted: ScriptedServer) -> None:
    with Client(scripted.target) as client:
        client.classify(b"cat")
        with away_for_a_while(scripted):
            assert client.classify(b"dog").predictions[0].label == "dog"
        with away_for_a_while(scripted):
            assert client.describe().model.name == "scripted"
        with away_for_a_while(scripted):
            assert [result.predictions[0].label for _, result in client.classify_many([(1, b"bird")])] == ["bird"]


@pytest.mark.ci
@on_a_loop
async def test_no_call_of_asyncio_fails_while_the_only_server_is_away(scripted: ScriptedServer) -> None:
    async with AsyncClient(scripted.target) as client:
        await client.classify(b"cat")
        with away_for_a_while(scripted):
            results = await asyncio.gather(*(client.classify(label) for label in (b"dog", b"bird")))
        assert [each.predictions[0].label for each in results] == ["dog", "bird"]
        with away_for_a_while(scripted):
            assert [result.predictions[0].label async for _, result in client.classify_many([(1, b"bee")])] == ["bee"]


@pytest.mark.ci
def test_a_server_that_does_not_come_back_is_said_so(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.client.reachability.RETURN_SECONDS", 0.5)
    with Client(scripted.target) as client:
        client.classify(b"cat")
        scripted.serving(yes=False)
        with pytest.raises(UnavailableError, match="is not serving"):  # noqa: PT012 - the call that ends it is not known
            for _ in range(10_000):  # until the client has heard: it watches health on a stream of its own
                client.classify(b"cat")
