"""Decoding in processes of its own, so that a crash in a codec costs one image.

A decoder thread takes a decoder process, sends it an image and waits for the pixels. A process that dies, does not
answer in time or makes no sense is ended and replaced, and its image alone fails.
"""

from __future__ import annotations

import importlib
import queue
import threading
import time

import structlog

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server import domain
from glimpse.server.decoding.prepare import Prepared
from glimpse.server.decoding.process import DecoderProcess, LostError
from glimpse.server.errors import InvalidImageError, Reason, defect, draining

_log = structlog.get_logger(__name__)

# What decoding takes at most, measured over all formats: a lossless WebP file with transparency and an orientation, 20
# bytes a pixel. The rest is for the file, its metadata and what the allocator cannot give back.
_BYTES_PER_PIXEL = 24
_BYTES_BESIDES = 64 << 20

_RETRY_SECONDS = 1.0  # between two attempts to start a process where the first one failed


def memory_for(limits: ImageLimits) -> int:
    """Bytes that decoding the most expensive picture within `limits` takes, and some to spare."""
    return _BYTES_BESIDES + limits.max_bytes + limits.max_pixels * _BYTES_PER_PIXEL


def possible() -> bool:
    """Whether this system has decoder processes; Windows has not."""
    try:
        importlib.import_module("fcntl")
    except ImportError:
        return False
    return True


class _Place:
    """Where one process after another works."""

    def __init__(self) -> None:
        self.process: DecoderProcess | None = None
        self.not_before = 0.0  # on the clock of `time.monotonic`

    def start(self, limits: ImageLimits, memory_bytes: int, seconds: float) -> DecoderProcess:
        self.process = DecoderProcess(limits, memory_bytes, seconds)
        return self.process

    @property
    def rests(self) -> bool:
        """Whether no process could be started there a moment ago."""
        return self.process is None and time.monotonic() < self.not_before

    def clear(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None


class Isolated:
    """`prepare`, in a pool of decoder processes."""

    def __init__(self, limits: ImageLimits, *, workers: int, memory_bytes: int, seconds: float) -> None:
        """Nothing is started yet: `start` does that, or else each process is started when it is first needed.

        Args:
            limits: what one image may cost.
            workers: number of processes; as many images are decoded at once.
            memory_bytes: that decoding one image may take.
            seconds: that decoding one image may take.
        """
        self._allowed = limits, memory_bytes, seconds
        self._places = [_Place() for _ in range(workers)]
        # Last in, first out: under little load the same process works on, with its caches warm.
        self._idle: queue.LifoQueue[_Place] = queue.LifoQueue()
        for place in self._places:
            self._idle.put(place)
        self._lock = threading.Lock()
        self._closed = False
        self._restarts = 0

    @property
    def restarts(self) -> int:
        """How many processes had to be replaced so far."""
        return self._restarts

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that are there now."""
        return [process.pid for place in self._places if (process := place.process) is not None]

    def start(self) -> None:
        """Start the processes and wait until they are ready. Linux and macOS only.

        Raises:
            RuntimeError: expected; one cannot be started, and why.
        """
        if not possible():
            raise RuntimeError("Decoder processes are not supported on this system. Set GLIMPSE_DECODE_IN=threads.")
        try:
            started = [place.start(*self._allowed) for place in self._places]
            for process in started:
                process.await_hello()
        except (OSError, LostError) as error:
            self.close()
            raise RuntimeError(f"Cannot start a decoder process: {error}.") from error

    def __call__(self, image: domain.Image, recipe: Recipe) -> Prepared:
        """From bytes to the network's input. May be called from any number of threads.

        Raises:
            InvalidImageError: expected; the image is not one, is damaged, is refused, is too large, or ended its
                decoder.
            UnavailableError: expected; `close` has been called.
            InternalError: no decoder process can be started; the log says why.
        """
        place = self._place()
        try:
            process = self._process(place)
            try:
                return process.prepare(image, recipe)
            except LostError as error:
                if self._closed:
                    raise draining() from error
                self._replace(place, str(error))
                raise InvalidImageError(
                    Reason.DECODER_FAILED,
                    f"The process that decoded the image was ended: {error}. Save the image again, or at a smaller "
                    "size.",
                    field="raw.data" if isinstance(image, domain.RawImage) else "encoded",
                ) from error
        finally:
            self._idle.put(place)

    def close(self) -> None:
        """End the processes. Whoever waits for one, or comes later, is told that the server shuts down."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for place in self._places:
            if (process := place.process) is not None:
                process.kill()  # and so whoever waits for it brings the place back
        for place in [self._idle.get() for _ in self._places]:
            place.clear()
            self._idle.put(place)

    def _place(self) -> _Place:
        """The place that was used last; not one without a process that rests, as long as there is another."""
        place, resting = self._idle.get(), list[_Place]()
        try:
            while place.rests:
                resting.append(place)
                place = self._idle.get_nowait()
        except queue.Empty:
            place = resting.pop()
        for each in resting:
            self._idle.put(each)
        return place

    def _process(self, place: _Place) -> DecoderProcess:
        """The process of that place, ready for an image."""
        if self._closed:
            raise draining()
        if place.process is not None and not place.process.alive:
            self._replace(place, f"{place.process.ending()} with nothing to do")
        if place.rests:
            raise defect()
        try:
            process = place.process or place.start(*self._allowed)
            process.await_hello()
        except (OSError, LostError) as error:
            if self._closed:
                raise draining() from error
            self._give_up(place, error)
            raise defect() from error
        return process

    def _replace(self, place: _Place, cause: str) -> None:
        """Put another process in its place. It starts by itself; whoever needs it first waits until it is ready."""
        with self._lock:
            self._restarts += 1
        said = place.process.said() if place.process is not None else ""
        _log.warning(
            "decoder process replaced", cause=cause, restarts=self._restarts, **({"said": said} if said else {})
        )
        place.clear()
        try:
            place.start(*self._allowed)
        except OSError as error:
            self._give_up(place, error)

    def _give_up(self, place: _Place, error: Exception) -> None:
        """No process for that place for now: one that does not start is not started over and over."""
        _log.error("decoder process does not start", cause=str(error), retry_after=_RETRY_SECONDS)
        place.clear()
        place.not_before = time.monotonic() + _RETRY_SECONDS
