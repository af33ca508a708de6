"""A server that allows so many images a second, and callers that send more: hardly anything is sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from glimpse.client import AsyncClient, Client
from tests.server.rig import SIZE, Rig

RATE, BURST, IMAGES = 100.0, 5, 105
MOST = 1.3  # uploads an image
PIXELS = np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        running = Rig(patch, f"--rate-limit={RATE}", f"--rate-burst={BURST}")
        running.network.let()
        yield running
        running.close()


def uploads(rig: Rig) -> float:
    """Of an image, on average."""
    refused = rig.gauge("glimpse_requests_rejected_total", reason="RATE_LIMITED")
    return (rig.gauge("glimpse_images_total", outcome="classified") + refused) / IMAGES


def answered(rig: Rig) -> bool:
    return rig.gauge("glimpse_images_total", outcome="classified") == IMAGES


def test_a_stream_sends_an_image_once(rig: Rig) -> None:
    with Client(rig.target) as client:
        results = dict(client.classify_many((n, PIXELS) for n in range(IMAGES)))
    assert all(result.error is None for result in results.values())
    assert answered(rig)
    assert uploads(rig) <= MOST


def test_a_stream_of_the_client_for_asyncio_sends_an_image_once(rig: Rig) -> None:
    async def run() -> int:
        async with AsyncClient(rig.target) as client:
            results = [result async for _, result in client.classify_many((n, PIXELS) for n in range(IMAGES))]
        return sum(result.error is None for result in results)

    assert asyncio.run(run()) == IMAGES
    assert answered(rig)
    assert uploads(rig) <= MOST


def test_several_clients_that_share_a_rate_do_not_drive_one_another_away(rig: Rig) -> None:
    def many(number: int) -> int:
        with Client(rig.target) as client:
            images = ((n, PIXELS) for n in range(number, IMAGES, 4))
            return sum(result.error is None for _, result in client.classify_many(images))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(many, range(4))) == IMAGES
    assert answered(rig)
    assert uploads(rig) <= MOST


@pytest.mark.parametrize("threads", [1, 4, 24])
def test_lone_calls_are_sent_once(rig: Rig, threads: int) -> None:
    with Client(rig.target) as client, ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda _: client.classify(PIXELS), range(IMAGES)))
    assert len(results) == IMAGES
    assert answered(rig)
    assert uploads(rig) <= MOST


def test_lone_calls_of_the_client_for_asyncio_are_sent_once(rig: Rig) -> None:
    async def run() -> None:
        async with AsyncClient(rig.target) as client:
            left = iter(range(IMAGES))

            async def work() -> None:
                for _ in left:
                    await client.classify(PIXELS)

            await asyncio.gather(*(work() for _ in range(24)))

    asyncio.run(run())
    assert answered(rig)
    assert uploads(rig) <= MOST


def test_lone_calls_of_several_clients_that_share_a_rate_are_sent_once(rig: Rig) -> None:
    def calls(number: int) -> None:
        with Client(rig.target) as client, ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: client.classify(PIXELS), range(number, IMAGES, 4)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(calls, range(4)))
    assert answered(rig)
    assert uploads(rig) <= MOST
