"""How a limit for all callers is shared: between parties, and within a party between its lanes. Plain data.

A party may hold at most seven times what is left free: one alone may hold seven eighths of all, two may hold seven
fifteenths each. So there is room for a new party, however much the others ask for, and no share has to be configured
(Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998). Within the party a
lane may hold at most seven times what is left free of the party's share. The last sixteenth is reserved for parties
that hold nothing yet, so that it takes many of them to leave no room for one more.
"""

from __future__ import annotations

from typing import NamedTuple

from glimpse.server.fair_queue import Lane

_TIMES_FREE = 7  # what a party may hold, in multiples of what is free
_RESERVED = 16  # one part in so many is for parties that hold nothing


class Permits(NamedTuple):
    """What a request holds between arrival and answer, or what may be held."""

    images: int
    bytes: int = 0  # of image data as it came
    work: int = 0  # of decoding, predicted; in pixels of an ordinary JPEG photo

    def part(self, parts: int, of: int) -> Permits:
        """So many parts of it, rounded down."""
        return Permits(self.images * parts // of, self.bytes * parts // of, self.work * parts // of)

    def within(self, limit: Permits) -> bool:
        """Whether none of it is above the limit."""
        return self.images <= limit.images and self.bytes <= limit.bytes and self.work <= limit.work

    def at_most(self, limit: Permits) -> Permits:
        """The smaller of both, of each kind."""
        return Permits(min(self.images, limit.images), min(self.bytes, limit.bytes), min(self.work, limit.work))


NO_PERMITS = Permits(0)
ONE = Permits(1)  # one of something that is only counted


class Held:
    """A sum of loads."""

    __slots__ = ("bytes", "images", "work")

    def __init__(self) -> None:
        self.images = self.bytes = self.work = 0

    def plus(self, load: Permits) -> Permits:
        """What would be held with that as well."""
        return Permits(self.images + load.images, self.bytes + load.bytes, self.work + load.work)


_NONE = Held()


class Shares:
    """How much of a limit each party and lane holds."""

    def __init__(self, most: Permits) -> None:
        """All of it is free."""
        self.most = most
        self._shared = Permits(*(each - each // _RESERVED for each in most))  # to parties that hold something already
        self._half = most.part(1, 2)
        self.held = Held()
        self._parties: dict[str, Held] = {}
        self._lanes: dict[Lane, Held] = {}

    def __len__(self) -> int:
        """Parties and lanes that hold something."""
        return len(self._parties) + len(self._lanes)

    def of(self, lane: Lane) -> Held:
        """What the lane's party holds; not to be changed."""
        return self._parties.get(lane.who, _NONE)

    def fits(self, load: Permits, reserved: Permits = NO_PERMITS) -> bool:
        """Whether there is room for a load, whoever it is of; `reserved` is promised to somebody else."""
        held, most = self.held, self.most
        return (
            held.images + load.images + reserved.images <= most.images
            and held.bytes + load.bytes + reserved.bytes <= most.bytes
            and held.work + load.work + reserved.work <= most.work
        )

    def plenty(self, load: Permits) -> bool:
        """Whether more than half would be free with a load as well: then it fits, and is beyond nobody's share."""
        held, half = self.held, self._half
        return (
            held.images + load.images <= half.images
            and held.bytes + load.bytes <= half.bytes
            and held.work + load.work <= half.work
        )

    def beyond(self, load: Permits, lane: Lane) -> bool:
        """Whether a lane or its party would hold more than their share with a load as well.

        Not where the party holds nothing: whether there is room is another question.
        """
        party = self._parties.get(lane.who)
        if party is None:
            return False
        held, most, own = self.held, self.most, self._lanes.get(lane, _NONE)
        images, size, work = held.images + load.images, held.bytes + load.bytes, held.work + load.work
        return (
            images > self._shared.images
            or size > self._shared.bytes
            or work > self._shared.work
            or _beyond(most.images - images, party.images + load.images, own.images, load.images)
            or _beyond(most.bytes - size, party.bytes + load.bytes, own.bytes, load.bytes)
            or _beyond(most.work - work, party.work + load.work, own.work, load.work)
        )

    def hold(self, load: Permits, lane: Lane) -> None:
        """Hold a load for a lane, without checking that there is room."""
        parties, lanes, who = self._parties, self._lanes, lane.who
        if (party := parties.get(who)) is None:
            party = parties[who] = Held()
        if (own := lanes.get(lane)) is None:
            own = lanes[lane] = Held()
        images, size, work = load
        held = self.held
        held.images += images
        party.images += images
        own.images += images
        if size or work:  # calls have neither
            held.bytes += size
            party.bytes += size
            own.bytes += size
            held.work += work
            party.work += work
            own.work += work

    def release(self, load: Permits, lane: Lane) -> None:
        """Give back what was held."""
        held, party, own = self.held, self._parties[lane.who], self._lanes[lane]
        images, size, work = load
        held.images -= images
        party.images -= images
        own.images -= images
        if size or work:
            held.bytes -= size
            party.bytes -= size
            own.bytes -= size
            held.work -= work
            party.work -= work
            own.work -= work
        if not own.images:
            del self._lanes[lane]
            if not party.images:
                del self._parties[lane.who]

    def place(self, lane: Lane) -> Place:
        """Hold one while the block runs."""
        return Place(self, lane)


class Place:
    """One thing of `shares`, held while the block runs. No generator: that would cost each call some microseconds."""

    __slots__ = ("_lane", "_shares")

    def __init__(self, shares: Shares, lane: Lane) -> None:
        self._shares, self._lane = shares, lane

    def __enter__(self) -> None:
        self._shares.hold(ONE, self._lane)

    def __exit__(self, *_: object) -> None:
        self._shares.release(ONE, self._lane)


def _beyond(free: int, party: int, lane: int, more: int) -> bool:
    """Whether a party or its lane would hold more than their share, of what would be `free` then.

    Args:
        free: for all, with the load held.
        party: what the party would hold.
        lane: what the lane holds now; where it is nothing, the lane may have what its party may.
        more: what is to come.
    """
    left = _TIMES_FREE * free - party
    return more > 0 and (left < 0 or (lane > 0 and lane + more > _TIMES_FREE * left))
