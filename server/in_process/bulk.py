"""Many images, in order, several at a time: read in threads, computed in batches, bounded in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from glimpse.client.errors import ImageRefusedError
from glimpse.client.image_values import unreadable
from glimpse.client.results import ImageResult
from glimpse.server.domain import Classification, ClassifyRequest, Image
from glimpse.server.in_process.pipeline_thread import PipelineThread
from glimpse.server.in_process.values import InputLimits, to_image, to_result

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

K = TypeVar("K")

_READERS = 8  # threads that read files: on a disk of the network most of their time is waiting

_Submitted = Future[Classification] | ImageResult


class _Taken(NamedTuple, Generic[K]):
    """An image that has been taken from the caller and not been yielded."""

    key: K
    reading: Future[_Submitted]  # its file, where it is one, and then having it classified

    def done(self) -> bool:
        """Whether its result is there."""
        if not self.reading.done() or self.reading.exception() is not None:
            return self.reading.done()
        submitted = self.reading.result()
        return isinstance(submitted, ImageResult) or submitted.done()

    def cancel(self) -> None:
        """Stop what can be stopped of it."""
        if self.reading.cancel() or not self.reading.done() or self.reading.exception() is not None:
            return
        if isinstance(submitted := self.reading.result(), Future):
            submitted.cancel()


class Bulk:
    """One run; `run` once."""

    def __init__(
        self,
        pipeline: PipelineThread,
        limits: InputLimits,
        to_request: Callable[[Image], ClassifyRequest],
        in_flight: int,
    ) -> None:
        """Prepare a run.

        Args:
            pipeline: classifies.
            limits: of an image.
            to_request: makes the request for an image.
            in_flight: images that may be taken and not yet be yielded.

        Raises:
            ValueError: `in_flight` is less than 1.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1. Received: {in_flight}")
        self._pipeline = pipeline
        self._limits = limits
        self._to_request = to_request
        self._in_flight = in_flight
        self._readers: ThreadPoolExecutor | None = None  # most callers with bytes or pixels need none

    def run(self, images: Iterable[tuple[K, ImageInput]]) -> Generator[tuple[K, ImageResult], None, None]:
        """Yield each image's key and result, in their order; see `Classifier.classify_all`."""
        waiting: deque[_Taken[K]] = deque()
        try:
            for key, image in images:
                waiting.append(_Taken(key, self._take(image)))
                # What is done need not wait for an image that may be long in coming.
                while waiting and (len(waiting) >= self._in_flight or waiting[0].done()):
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
        finally:
            for taken in waiting:
                taken.cancel()
            if self._readers is not None:
                self._readers.shutdown(wait=False, cancel_futures=True)

    def _first(self, waiting: deque[_Taken[K]]) -> tuple[K, ImageResult]:
        """The result of the image that was taken first, waiting for it.

        Raises:
            GlimpseError: its request was refused, or failed.
        """
        submitted = waiting[0].reading.result()
        result = submitted if isinstance(submitted, ImageResult) else to_result(self._pipeline.wait(submitted))
        return waiting.popleft().key, result

    def _take(self, image: ImageInput) -> Future[_Submitted]:
        if isinstance(image, (str, os.PathLike)):
            if self._readers is None:
                self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="glimpse-read")
            return self._readers.submit(self._submit, image)
        taken: Future[_Submitted] = Future()
        taken.set_result(self._submit(image))  # copied before the caller may change it
        return taken

    def _submit(self, image: ImageInput) -> _Submitted:
        try:
            return self._pipeline.submit(self._to_request(to_image(image, self._limits)))
        except ImageRefusedError as error:
            return ImageResult.failed(error.code, error.reason, error.message)
        except OSError as error:
            return unreadable(error)
