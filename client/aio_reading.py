"""Reading the images of bulk work ahead of their sending, on an event loop and within a window."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

from glimpse.client.aio_stream import cancelled_from_outside
from glimpse.client.image_values import is_pillow
from glimpse.client.reading import Exhausted, Failed, Job, Reader, ToRequest, load_job

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

K = TypeVar("K")

Put = Callable[[Job[K] | Exhausted | Failed], None]


def start(
    images: Iterable[tuple[K, ImageInput]] | AsyncIterable[tuple[K, ImageInput]],
    to_request: ToRequest,
    put: Put[K],
    window: int,
) -> Reader[K] | AsyncReader[K]:
    """Begin to read; returns at once.

    An iterable that is not async may block, as one that walks through folders does: like the files, it is read in a
    thread. That is a daemon of its own, not one of the loop's pool: an iterable that never goes on would keep the
    program from ending.

    Args:
        images: the caller's.
        to_request: loads an image and wraps it up; its OSError and ImageRefusedError fail that image alone.
        put: takes the jobs, then how the iterable ended; called on the event loop.
        window: images that may hold a permit, at least 1.
    """
    if isinstance(images, AsyncIterable):
        return AsyncReader(images, to_request, put, window=window)
    loop = asyncio.get_running_loop()

    def put_from_thread(event: Job[K] | Exhausted | Failed) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it
            loop.call_soon_threadsafe(put, event)

    threaded: Reader[K] = Reader(to_request, put_from_thread, window=window)
    threaded.start(images)
    return threaded


class AsyncReader(Generic[K]):
    """Turns the caller's images into jobs, at most a window of them at a time, as `client.reading.Reader` does."""

    def __init__(
        self, images: AsyncIterable[tuple[K, ImageInput]], to_request: ToRequest, put: Put[K], *, window: int
    ) -> None:
        """Begin to read; the arguments are those of `start`."""
        self._to_request = to_request
        self._put = put
        self._permits = asyncio.Semaphore(window)
        self.task = asyncio.create_task(self._read(images), name="glimpse-bulk-read")

    def done_with_one(self) -> None:
        """Give an image's permit back."""
        self._permits.release()

    def stop(self) -> None:
        """Ask for no further image; `task` ends soon after."""
        self.task.cancel()

    async def _read(self, images: AsyncIterable[tuple[K, ImageInput]]) -> None:
        number = 0
        try:
            iterator = aiter(images)
            while True:
                await self._permits.acquire()
                try:
                    key, image = await anext(iterator)
                except StopAsyncIteration:
                    break
                self._put(await self._load(number, key, image))
                number += 1
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            self._put(Failed(error))  # the iterable's own
        except BaseException as error:  # noqa: BLE001  (whatever it is, it belongs to the task that iterates)
            self._put(Failed(error))
        else:
            self._put(Exhausted(number))

    async def _load(self, number: int, key: K, image: ImageInput) -> Job[K]:
        return await off_the_loop(image, lambda: load_job(self._to_request, number, key, image))


T = TypeVar("T")


async def off_the_loop(image: ImageInput, load: Callable[[], T]) -> T:
    """What `load` gives, from a thread where it has to read a file or decode a Pillow image for that."""
    if isinstance(image, (str, os.PathLike)) or is_pillow(image):
        return await asyncio.to_thread(load)
    return load()
