"""Writes samples beside the event loop: no answer waits for the disk, and none fails because of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from glimpse.models.decoding.bare import BareFile, png_of, without_metadata
from glimpse.models.decoding.refusals import RefusedImageError
from glimpse.server.domain import Image, RawImage
from glimpse.server.labelling.folder import SampleFolder
from glimpse.server.metrics.labelling import LabellingMetrics

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_MOST, _MOST_BYTES = 64, 64 << 20  # images that wait, and their bytes
_IDLE_SECONDS = 60.0  # after which old samples are looked for where there is nothing else to do


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that is to be kept."""

    name: str  # of its files
    image: Image
    facts: Mapping[str, Any]  # with a list of `reasons`


class Writer:
    """The one thread of a process that touches the folder. The other methods are for all threads."""

    def __init__(self, folder: SampleFolder, metrics: LabellingMetrics) -> None:
        """Nothing is written before `start`."""
        self._folder, self._metrics = folder, metrics
        self._queue: queue.SimpleQueue[Sample | Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._images = self._bytes = 0  # that wait
        self._failed = False
        self._deleted = 0
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, sample: Sample) -> None:
        """Have a sample written; where too many wait, it is dropped."""
        size = len(sample.image.data)
        with self._lock:
            full = self._images >= _MOST or self._bytes + size > _MOST_BYTES
            if not full:
                self._images += 1
                self._bytes += size
        if full:
            self._metrics.dropped("busy")
        else:
            self._queue.put(sample)

    def call(self, work: Callable[[SampleFolder], T]) -> Future[T]:
        """Have something else done with the folder, after all that waits; an error of the disk is the future's."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(self._folder))
                except Exception as error:  # noqa: BLE001 - it is told where the result is waited for
                    future.set_exception(error)

        self._queue.put(run)
        return future

    def close(self, seconds: float) -> None:
        """Write what waits, for so many seconds at most."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        self._attempt(self._folder.open)
        while True:
            try:
                job = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                self._attempt(self._folder.tidy)
                continue
            if job is None:
                return
            if isinstance(job, Sample):
                self._write(job)
                self._attempt(self._folder.tidy)
            else:
                job()
            self._tell()

    def _write(self, sample: Sample) -> None:
        try:
            bare = _file(sample.image)
        except RefusedImageError:
            self._metrics.dropped("unreadable")
        except Exception:  # noqa: BLE001 - a slip of ours in reading what nobody has thought of costs that sample alone
            _log.exception("a defect of the service")
            self._metrics.dropped("unreadable")
        else:
            if self._attempt(lambda: self._folder.add(sample.name, bare.data, bare.suffix, sample.facts)):
                self._failed = False
                for reason in sample.facts["reasons"]:
                    self._metrics.kept(reason)
            else:
                self._metrics.dropped("disk")
        finally:
            with self._lock:
                self._images -= 1
                self._bytes -= len(sample.image.data)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do something with the folder; whether it could be done. The log tells why not, once until one is kept."""
        try:
            work()
        except OSError as error:
            if not self._failed:
                _log.warning(
                    "samples are lost",
                    detail=f"The folder GLIMPSE_SAMPLES cannot be used: {error}. Answers are not affected.",
                )
            self._failed = True
            return False
        except Exception:  # noqa: BLE001 - what somebody has written into a JSON file costs that sample, not the thread
            _log.exception("a defect of the service")
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        totals, deleted = self._folder.totals, self._folder.deleted
        self._metrics.images.set(totals.images)
        self._metrics.bytes.set(totals.bytes)
        self._metrics.deleted.inc(deleted - self._deleted)
        self._deleted = deleted


def _file(image: Image) -> BareFile:
    """The file that is kept of an image: its own without metadata, or a PNG of its pixels.

    Raises:
        RefusedImageError: expected; its metadata cannot be told from its picture.
    """
    if isinstance(image, RawImage):
        return BareFile(png_of(bytes(image.data), image.height, image.width, image.channels), ".png")
    return without_metadata(image.data)
