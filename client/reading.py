"""Reading the images of bulk work ahead of their sending, in a thread and within a window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

from glimpse.client.errors import ImageRefusedError
from glimpse.client.image_values import unreadable
from glimpse.client.results import ImageResult
from glimpse.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from glimpse.client.image_values import ImageInput

K = TypeVar("K")

ToRequest = Callable[["ImageInput"], pb.ClassifyRequest]


@dataclass(slots=True)
class Job(Generic[K]):
    """An image between being read and being done with."""

    number: int  # in the order of the caller's iterable
    key: K
    request: pb.ClassifyRequest | None = None  # kept until the answer is there, for another attempt or stream
    result: ImageResult | None = None
    refusals: int = 0  # in a row, without an answer to any other image between them
    answers: int = 0  # to the whole run, when it was last refused


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The caller's iterable ended."""

    images: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The caller's iterable raised, or gave something that can be no image."""

    error: BaseException


class Reader(Generic[K]):
    """Turns the caller's images into jobs, at most a window of them at a time.

    An image holds a permit from before it is asked for until `done_with_one`.
    """

    def __init__(
        self,
        to_request: ToRequest,
        put: Callable[[Job[K] | Exhausted | Failed], None],
        *,
        window: int,
    ) -> None:
        """Prepare a reader.

        Args:
            to_request: loads an image and wraps it up; its OSError and ImageRefusedError fail that image alone.
            put: takes the jobs, then how the iterable ended; called in the reader's thread.
            window: images that may hold a permit, at least 1.
        """
        if window < 1:
            raise ValueError(f"in_flight must be at least 1. Received: {window}")
        self._to_request = to_request
        self._put = put
        self._permits = Semaphore(window)
        self._stopped = False

    def start(self, images: Iterable[tuple[K, ImageInput]]) -> None:
        """Begin to read; returns at once."""
        Thread(target=self._read, args=(images,), name="glimpse-bulk-read", daemon=True).start()

    def done_with_one(self) -> None:
        """Give an image's permit back."""
        self._permits.release()

    def stop(self) -> None:
        """Ask for no further image."""
        self._stopped = True
        self._permits.release()  # wakes it

    def _read(self, images: Iterable[tuple[K, ImageInput]]) -> None:
        number = 0
        try:
            iterator = iter(images)
            while True:
                self._permits.acquire()
                if self._stopped:
                    return
                try:
                    key, image = next(iterator)
                except StopIteration:
                    break
                self._put(load_job(self._to_request, number, key, image))
                number += 1
        except BaseException as error:  # noqa: BLE001  (whatever it is, it belongs to the thread that iterates)
            self._put(Failed(error))
        else:
            self._put(Exhausted(number))


def load_job(to_request: ToRequest, number: int, key: K, image: ImageInput) -> Job[K]:
    """A job with its request, or with its result where the image cannot be had.

    Args:
        to_request: loads an image and wraps it up; its OSError and ImageRefusedError fail that image alone.
        number: of the image in the caller's iterable.
        key: the caller's.
        image: the caller's, too.
    """
    try:
        return Job(number, key, to_request(image))
    except OSError as error:
        result = unreadable(error)
    except ImageRefusedError as error:
        result = ImageResult.failed(error.code, error.reason, error.message)
    return Job(number, key, result=result)


class InOrder(Generic[K]):
    """Puts jobs back in the order of their numbers; those that overtook wait, and keep their permits."""

    def __init__(self) -> None:
        self._early: dict[int, Job[K]] = {}
        self._following = 0

    def ready(self, job: Job[K]) -> Iterator[Job[K]]:
        """Take a job, and give those whose turn it is by that."""
        self._early[job.number] = job
        while self._following in self._early:
            following = self._early.pop(self._following)
            self._following += 1
            yield following


def in_order(jobs: Iterable[Job[K]]) -> Iterator[Job[K]]:
    """The same jobs by their number."""
    order: InOrder[K] = InOrder()
    for job in jobs:
        yield from order.ready(job)
