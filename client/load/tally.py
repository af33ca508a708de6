"""The book-keeping of one phase, in memory that does not grow with the number of requests. No clock, no gRPC."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from glimpse.client.load.histogram import Histogram

# As the server tells them, in their order; `rest` is what it does not know of.
STAGES = ("receive", "admission", "decode_wait", "decode", "pre_stem", "queue", "compute", "reply", "rest")
NOT_SENT = "NOT_SENT"  # the generator was behind, or had too much in flight
NOT_REFUSED = "BROKEN_IMAGE_CLASSIFIED"  # an image that was broken on purpose got predictions
_MOMENTS = 240  # of a timeline; when there are more, two become one
_RECENT = 5  # seconds that the live figures are of


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    body: bytes  # the message
    broken: tuple[bool, ...]  # for each image whether it is broken on purpose


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    error: str = ""  # reason why there is no answer; "" where there is one
    images: tuple[str, ...] = ()  # for each image the reason why it could not be classified; "" where it was
    stages: tuple[float, ...] | None = None  # seconds of the slowest classified image, of all `STAGES` but the rest
    batch: int = 0  # images in that one's batch


@dataclass(slots=True)
class Interval:
    """A stretch of the timeline; what ended in it."""

    requests: int = 0  # answered
    images: int = 0  # answered as they should be
    errors: int = 0  # images
    latency: Histogram = field(default_factory=Histogram)
    stages: list[float] = field(default_factory=lambda: [0.0] * len(STAGES))  # sums over `staged`
    staged: int = 0  # answers that told their stages

    def merge(self, other: Interval) -> None:
        """Add another one."""
        self.requests += other.requests
        self.images += other.images
        self.errors += other.errors
        self.latency.merge(other.latency)
        self.stages = [a + b for a, b in zip(self.stages, other.stages, strict=True)]
        self.staged += other.staged


class Tally:
    """What became of the requests of a phase. All times are of one clock, in seconds.

    A request counts if it was due from `begin` on. The rate is of the answers between `begin` and `end`, whenever their
    requests were sent: those of the warm-up that end inside make up for those inside that end later.
    """

    def __init__(self, begin: float, end: float) -> None:
        """Nothing yet.

        Args:
            begin: when the warm-up is over.
            end: when sending ends; infinite where that is not known yet.
        """
        self.begin = begin
        self.end = end
        self.requests = 0  # due
        self.images = 0
        self.classified = 0
        self.expected = 0  # images that were refused as they should be
        self.errors: Counter[str] = Counter()  # images by reason
        self.latency = Histogram()  # of answered requests, from when they were due
        self.late = Histogram()  # from when they were due until they were sent
        self.in_flight = 0
        self.most_in_flight = 0
        self.batches = 0
        self.all = Interval()  # for sums over the whole phase
        self.in_time = Interval()  # answers between begin and end
        self.moments: list[Interval] = []
        self.width = 0.5  # seconds of a moment, to begin with
        self._recent: deque[tuple[int, Interval]] = deque()

    def counts(self, due: float) -> bool:
        """Whether a request that is due then is counted."""
        return due >= self.begin

    def sent(self, request: Request, due: float, now: float) -> None:
        """A request goes out."""
        self.in_flight += 1
        if self.counts(due):
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.requests += 1
            self.images += len(request.broken)
            self.late.add(now - due)

    def not_sent(self, images: int, due: float) -> None:
        """A request was due that could not be sent."""
        if self.counts(due):
            self.requests += 1
            self.images += images
            self.errors[NOT_SENT] += images

    def dropped(self) -> None:
        """The run was stopped before the answer came."""
        self.in_flight -= 1

    def done(self, request: Request, answer: Answer, due: float, now: float) -> None:
        """An answer came, or an error."""
        self.in_flight -= 1
        good, wrong = _judge(request, answer)
        moment = Interval(requests=not answer.error, images=good, errors=wrong.total())
        latency = now - due
        if not answer.error:  # a quick refusal must not make the latency look better
            moment.latency.add(latency)
        if answer.stages is not None:
            moment.stages = [*answer.stages, max(0.0, latency - sum(answer.stages))]
            moment.staged = 1
        self._add_recent(moment, now)
        if self.begin <= now <= self.end:
            self.in_time.merge(moment)
            self._moment(now).merge(moment)
        if self.counts(due):
            self.classified += sum(not reason and not bad for reason, bad in _pairs(request, answer))
            self.expected += sum(bool(reason) and bad for reason, bad in _pairs(request, answer))
            self.errors.update(wrong)
            self.latency.merge(moment.latency)
            self.all.merge(moment)
            self.batches += answer.batch

    def merge(self, other: Tally) -> None:
        """Add what became of another process's requests, of the same phase and on the same clock.

        The most in flight are those of both at their own worst moments, which is an upper bound.
        """
        self.begin, self.end = min(self.begin, other.begin), max(self.end, other.end)
        for name in ("requests", "images", "classified", "expected", "in_flight", "most_in_flight", "batches"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.latency.merge(other.latency)
        self.late.merge(other.late)
        self.all.merge(other.all)
        self.in_time.merge(other.in_time)
        while self.width < other.width:
            self._widen()
        for number, moment in enumerate(other.moments):
            self._at(int(number * other.width / self.width)).merge(moment)

    def close(self, now: float) -> None:
        """Nothing more comes, though `end` may not have come: it was stopped, or all requests have their answers."""
        self.end = min(self.end, max(now, self.begin))

    @property
    def seconds(self) -> float:
        """How long the phase took without its warm-up; once it is closed."""
        return self.end - self.begin

    def recent(self, now: float) -> tuple[Interval, float]:
        """What ended in the last seconds, and of how many."""
        self._forget(now)
        sum_ = Interval()
        for _, moment in self._recent:
            sum_.merge(moment)
        first = self._recent[0][0] if self._recent else math.floor(now)
        return sum_, max(1.0, now - first)

    def _add_recent(self, moment: Interval, now: float) -> None:
        second = math.floor(now)
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append((second, Interval()))
            self._forget(now)
        self._recent[-1][1].merge(moment)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - _RECENT - 1:
            self._recent.popleft()

    def _moment(self, now: float) -> Interval:
        while (now - self.begin) / self.width >= _MOMENTS:
            self._widen()
        return self._at(int((now - self.begin) / self.width))

    def _widen(self) -> None:
        self.width *= 2
        pairs = [self.moments[at : at + 2] for at in range(0, len(self.moments), 2)]
        for first, *second in pairs:
            for other in second:
                first.merge(other)
        self.moments = [pair[0] for pair in pairs]

    def _at(self, number: int) -> Interval:
        while len(self.moments) <= number:
            self.moments.append(Interval())
        return self.moments[number]


def _judge(request: Request, answer: Answer) -> tuple[int, Counter[str]]:
    """How many images came back as they should, and the others by reason."""
    if answer.error:
        return 0, Counter({answer.error: len(request.broken)})
    wrong: Counter[str] = Counter()
    for reason, bad in _pairs(request, answer):
        if bad and not reason:
            wrong[NOT_REFUSED] += 1
        elif reason and not bad:
            wrong[reason] += 1
    return len(request.broken) - wrong.total(), wrong


def _pairs(request: Request, answer: Answer) -> list[tuple[str, bool]]:
    """Each image's reason, and whether it was broken on purpose. An answer that is too short lacks its last images."""
    if answer.error:
        return []
    lacking = ("NO_RESULT",) * (len(request.broken) - len(answer.images))
    return list(zip((*answer.images, *lacking), request.broken, strict=False))
