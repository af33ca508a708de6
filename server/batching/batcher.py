"""The batcher: composes a batch whenever the device becomes free, from whatever is queued. No timer, no wait knob."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.batching.batch_queue import BatchQueue, Taken
from glimpse.server.batching.bounded_queue import BoundedQueue
from glimpse.server.batching.composer import Composer
from glimpse.server.batching.device import ALONE, DeviceShare, Turn
from glimpse.server.batching.endings import fail, failed, no_thread, stuck, too_late
from glimpse.server.batching.executor import Compute, Computed, Executor
from glimpse.server.batching.feed import Feed, Given, OneByOne
from glimpse.server.batching.first_maps import FirstMaps
from glimpse.server.batching.observer import Observer
from glimpse.server.batching.streams import Streams
from glimpse.server.batching.waiting import Answer, Slot, Waiting
from glimpse.server.batching.watch import Watch
from glimpse.server.batching.workers import Workers
from glimpse.server.domain import BatchReport
from glimpse.server.errors import OverloadedError, Reason, ServiceError, draining
from glimpse.server.fair_queue import NO_LANE, Lane
from glimpse.server.nouns import noun

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)  # of batches, in the whole process
_ONE = Streams()
_STOOD = 1.0  # seconds of a batch that the clock which leaves out standing still did not count
_FEW = 8  # images, of which a thread that gives answers composes the next batch sooner than another one wakes


class Batcher:
    """Queues single images and computes them in batches on one device.

    It is what callers and threads share: the lock, under which `BoundedQueue` says what may wait, `Composer` when the
    next batch is composed and of what, and `Watch` what hangs. Each worker has a staging buffer of its own.
    """

    def __init__(  # noqa: PLR0913 - what a device is like, beside what the queue may hold
        self,
        compute: Compute,
        *,
        input_shape: tuple[int, int, int],
        batch_sizes: tuple[int, ...],
        capacity: int,
        observer: Observer,
        alone: Compute | None = None,
        streams: Streams = _ONE,
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
        out_of_memory: Callable[[Exception], bool] = lambda error: isinstance(error, MemoryError),
        stuck_seconds: float = math.inf,
        share: DeviceShare | None = None,
        idle_seconds: float | None = None,
        prepare_maps: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        awake: Callable[[], float] | None = None,
    ) -> None:
        """Make a batcher; `start` sets it to work.

        Args:
            compute: uint8 ``[n, H, W, C]`` and names of outputs -> these outputs, float32 ``[n, ...]`` each, n one of
                `batch_sizes`. The buffer is used again as soon as it returns.
            input_shape: (H, W, C).
            batch_sizes: sizes the device is warm for, rising; a batch is padded up to the next one.
            capacity: slots that may wait; one more is refused.
            observer: told what happens.
            alone: the same as `compute` for a lone image while nothing else waits or is computed, nor has for a while.
            streams: how many batches `compute` may be given at once, and what computes them. Where several streams are
                free, they share what waits.
            outputs: names of all that `compute` can give.
            out_of_memory: whether an error of `compute` says that the batch does not fit; a smaller one is tried then.
            stuck_seconds: a batch that computes for longer hangs.
            share: of the device, where other models compute on it, too; None: it is this batcher's alone.
            idle_seconds: without an image, after which the workers end, until the next one comes; None: never.
            prepare_maps: to be called once before `compute` is asked for class maps, in a thread of its own, because it
                takes long; None: there is nothing to be done.
            clock: seconds, monotonic; deadlines are on it.
            awake: the clock by which something hangs, see `AwakeClock`; None: `clock`. A batch during which it stood
                still says nothing about how long others will take.
        """
        self._device = Executor(
            compute, alone=alone or compute, sizes=batch_sizes, out_of_memory=out_of_memory, clock=clock
        )
        self._watch, self._stuck_seconds = Watch(stuck_seconds, awake or clock), stuck_seconds
        self.streams = streams
        self._share_of_device = share
        self._input_shape = input_shape
        self._outputs = outputs
        self._observer = observer
        self._clock, self._awake = clock, awake or clock
        self._queue = BatchQueue()
        self._composer = Composer(self._queue, self._device, streams, shared=share is not None)
        self._first_maps = FirstMaps(prepare_maps, self._maps_prepared, seconds=stuck_seconds, clock=awake or clock)
        self._waiting = BoundedQueue(self._queue, self._first_maps, capacity=capacity, observer=observer)
        self._feed: Feed = OneByOne()
        self._fed = False  # by whoever is asked before a batch is composed
        self._changed = threading.Condition()
        self._closed = False
        self._idle_seconds = idle_seconds
        self._staging = [np.zeros((batch_sizes[-1], *input_shape), np.uint8) for _ in range(streams.workers)]
        self._workers = Workers(streams.workers, self._work)

    def start(self) -> None:
        """Set the workers to work."""
        self._workers.start()

    def submit(
        self,
        pixels: NDArray[np.uint8],
        *,
        lane: Lane = NO_LANE,
        deadline: float | None = None,
        future: Future[Answer] | None = None,
        since: float | None = None,
        outputs: frozenset[str] = DEFAULT_OUTPUTS,
    ) -> Future[Answer]:
        """Queue one image. Cancelling the future takes it out again, unless its batch has been composed.

        Args:
            pixels: uint8 ``[H, W, C]``; not to be changed until the future is done.
            lane: whose turn it uses.
            deadline: on the batcher's clock.
            future: that the answer is to end; a fresh one when left out.
            since: when its wait began, on the batcher's clock; now, when left out.
            outputs: names of those that the answer is to hold.

        Raises:
            OverloadedError: expected; the queue is full, or there is no thread to compute in.
            UnavailableError: the batcher is closed, or the device hangs.
            ValueError: you should fix your code; the pixels are not the network's input, or it has no such output.
        """
        if pixels.shape != self._input_shape or pixels.dtype != np.uint8:
            # Found here, it costs its own request; found while gathering, it would cost a worker.
            raise ValueError(f"pixels must be uint8 {self._input_shape}. Received: {pixels.dtype} {pixels.shape}")
        if not outputs or not outputs <= self._outputs:
            raise ValueError(f"outputs must be some of {sorted(self._outputs)}. Received: {sorted(outputs)}")
        slot = Slot(pixels, lane, deadline, self._clock() if since is None else since, future or Future(), outputs)
        with self._changed:
            if self._closed:
                raise draining()
            if (trouble := self._watch.trouble()) is not None:
                raise stuck(trouble)
            if self._waiting.room() <= 0:
                raise self._full()
            # Also for one that is held: while a thread is there, the batcher is not closed.
            if self._workers.ended and not self._workers.start_again():
                raise no_thread()
            self._waiting.put(slot)
            if self._composer.may_compose():  # else it would wake a worker only to find that out
                self._changed.notify()
        return slot.future

    def feed_from(self, feed: Feed) -> None:
        """Ask `feed` for images from now on, before each batch, and let it give all answers.

        From then on images come by `put` alone, not by `submit`.
        """
        with self._changed:
            self._feed, self._fed = feed, True

    def put(self, images: Sequence[Waiting], *, wake: bool = True) -> None:
        """Queue many images that are what the network takes; those that cannot be queued are refused one by one.

        `wake`: have a thread compose a batch of them, where one may; else whoever calls composes it.
        """
        refused: list[tuple[Waiting, ServiceError]] = []
        waiting = self._waiting
        with self._changed:
            if self._closed:
                refused += [(image, draining()) for image in images]
            elif (trouble := self._watch.trouble()) is not None:
                refused += [(image, stuck(trouble)) for image in images]
            elif self._workers.ended and not self._workers.start_again():
                refused += [(image, no_thread()) for image in images]
            else:
                room, put = waiting.room(), waiting.put
                for number, image in enumerate(images):
                    # Looked through for cancelled ones a second time where those before have filled it, and no more.
                    if room <= 0 and (not number or (room := waiting.room()) <= 0):
                        refused += [(each, self._full()) for each in images[number:]]
                        break
                    put(image)
                    room -= 1
            if wake and self._composer.may_compose():
                self._changed.notify()
        for image, error in refused:
            image.refuse(error)

    @property
    def busy(self) -> bool:
        """Whether the device computes as many batches as it can."""
        return self._composer.busy

    def parties(self) -> int:
        """Callers whose images wait."""
        with self._changed:
            return self._queue.parties()

    def depth(self) -> int:
        """Images waiting, those included that wait for the first class maps."""
        return len(self._waiting)

    def ready(self) -> int:
        """Images of them that the next batches may hold."""
        return len(self._queue)

    def ahead(self, lane: Lane) -> int:
        """How many images are computed before one that comes in `lane` now, if no others come."""
        with self._changed:
            return self._queue.ahead(lane)

    def seconds_to_compute(self, images: int) -> float:
        """How long the device needs for that many images, from the batches measured so far."""
        with self._changed:
            return self._composer.seconds_to_compute(images)

    def trouble(self) -> str | None:
        """What keeps the device from answering, for people; None: nothing does. To be asked every now and then.

        As long as there is something, all that waits for an answer is refused, for nobody knows whether it would come.
        A batch that comes back after all ends it; a thread that has died does not come back.
        """
        with self._changed:
            trouble = self._watch.trouble()
            why = self._first_maps.trouble() if trouble is None else trouble
            if why is None:
                return None
            lost = self._first_maps.take()
            if trouble is not None:  # else the device computes for all who ask for no maps
                now = self._clock()
                taken = self._queue.take(len(self._queue), now=now, ready_by=now)
                lost += [*self._watch.lost(), *taken.batch, *taken.expired]
            self._changed.notify_all()  # nothing waits any more: where the batcher is closed, that is the end
        if trouble is not None and self._share_of_device is not None:
            self._share_of_device.give_up(self._stuck_seconds)
        fail(lost, lambda: stuck(why))
        return trouble

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, compute what is queued, stop the workers.

        Returns:
            Whether the workers ended within `timeout` seconds.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        ended = self._workers.join(timeout)
        if ended and self._share_of_device is not None:
            self._share_of_device.leave()
        return ended

    def _maps_prepared(self, ready: bool) -> None:  # noqa: FBT001 - as `FirstMaps` calls it
        """What computes class maps is there, or could not be made: the images that wait for it go on, or fail."""
        with self._changed:
            lost = self._waiting.maps_prepared(ready=ready)
            if self._workers.ended and len(self._queue):
                self._workers.start_again()
            self._changed.notify_all()  # where the batcher is closed, that may be the end
        fail(lost, failed)

    def _full(self) -> OverloadedError:
        """With the lock: what is told to whom there is no room for."""
        return OverloadedError(
            Reason.QUEUE_FULL,
            f"{len(self._waiting)} {noun(len(self._waiting), 'image is', 'images are')} in the queue, which holds at "
            f"most {self._waiting.capacity}. Try again later.",
            retry_after=self._composer.seconds_to_compute(len(self._queue)),
        )

    def _work(self, number: int) -> None:
        name, staging = threading.current_thread().name, self._staging[number]
        try:
            while (taken := self._take(name, number)) is not None:
                batch, turn = taken
                try:
                    if batch:
                        self._run(name, batch, staging, turn)
                        batch.clear()  # else its pixels would be kept until this thread has another
                finally:
                    turn.end()
        except BaseException as error:  # noqa: BLE001 - a thread that died unseen would be missed by its callers alone
            _log.critical("a thread of the batcher has died", exc_info=True)
            with self._changed:
                held = self._watch.died(name, error)
                self._changed.notify_all()
            fail(held, failed)
            self.trouble()

    def _take(self, name: str, number: int) -> tuple[list[Waiting], Turn] | None:
        """Wait until a batch may be composed, and compose it; None when closed and empty, or idle for long.

        Where other models share the device, the batch is composed when its turn has come, of what has gathered by then.
        """
        composer = self._composer
        turn = ALONE if self._share_of_device is None else self._share_of_device.turn()
        if self._fed:
            self._feed.pull(wake=False)
            if not composer.busy and not composer.may_compose():  # a guess without the lock: the feed looks by itself
                self._feed.idle()
        with self._changed:
            while not composer.may_compose():
                if self._closed and not len(self._waiting):
                    return None
                if not self._changed.wait(self._idle_seconds) and not (len(self._waiting) or composer.computing):
                    self._workers.ended.append(number)
                    return None
            if turn is not ALONE and (self.streams.number > 1 or not composer.busy):
                composer.staged = True  # the others need not wait for a turn, too
                self._changed.release()
                try:
                    turn.begin()
                finally:
                    self._changed.acquire()
            now = self._clock()
            taken, expected = composer.compose(now)
            if taken.batch:
                self._watch.took(name, taken.batch)
            if self._closed and not len(self._queue):
                self._changed.notify_all()  # the other workers may be waiting for the end
        self._tell(taken, now, expected)
        return taken.batch, turn

    def _tell(self, taken: Taken, now: float, expected: float) -> None:
        """Tell those that were left out of a batch."""
        for slot in taken.expired:
            slot.refuse(too_late(now - slot.enqueued, expected))
        if taken.expired:
            self._observer.expired(len(taken.expired))
        if taken.cancelled:
            self._observer.cancelled(taken.cancelled)

    def _has_others_compose(self) -> bool:
        """Whether a thread that is about to give answers is to wake others for what waits.

        Where it is fed it composes the next batch by itself, unless the answers take longer than waking another.
        """
        waiting = len(self._queue)
        return waiting > _FEW if self._fed else waiting > 0

    def _run(self, name: str, composed: Sequence[Waiting], staging: NDArray[np.uint8], turn: Turn) -> None:
        composer, padded = self._composer, self._device.padded(len(composed))
        outputs = frozenset().union(*[slot.outputs for slot in composed])
        batch = self._feed.gather(composed, staging)
        # Before a stream is waited for: whoever asks for a turn once the batch before has ended comes after all others.
        turn.begin()
        with self._changed:
            while composer.busy:
                self._changed.wait()
            alone = composer.begin(len(batch), padded)
            self._watch.began(name)
            if composer.may_compose():
                self._changed.notify_all()  # for another stream that is free, or to gather the next batch
        alone = alone and turn.whole()
        begun, begun_awake = self._clock(), self._awake()
        computed: Computed | None = None
        try:
            computed = self._device.compute(staging, len(batch), alone=alone, outputs=outputs)
        finally:
            seconds = self._clock() - begun
            stood = seconds - (self._awake() - begun_awake) > _STOOD
            turn.end()
            with self._changed:
                whole = computed is not None and computed.ok and len(computed.parts) == 1
                composer.end(padded, seconds if whole and not stood else None)
                self._watch.ended(name)
                # Else it would wake workers for nothing, on cores that are to hand out the answer.
                if composer.staged or self._closed or self._has_others_compose():
                    self._changed.notify_all()
        if computed.halved:
            self._observer.halved()
        queued, number = tuple(begun - slot.enqueued for slot in batch), next(_numbers)
        self._observer.batch(BatchReport(len(batch), padded, seconds, queued, ok=computed.ok))
        if self._fed and len(batch) > _FEW:
            self._feed.pull(wake=True)  # so that another thread composes from it, while this one gives the answers
        self._feed.give(Given(batch, computed, queued, seconds, number))
        with self._changed:
            self._watch.gave(name)
