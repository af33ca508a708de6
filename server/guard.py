"""Who floods the server: what each connection has brought is counted, and judged by what came of it.

A call that came to nothing costs its sender one point: one that ended without a message, whose token was refused, or
whose method there is not; so does a connection that came and went without a call. A call that was reset at once costs a
quarter, because whoever gives up honestly may give up a thousand calls that wait; so does what is cheap but answered (a
health check, a broken message). A refusal for want of room costs a tenth. A classification that was answered gives a
point back. An address has an allowance of points, which fills up again. One that has used it up, while the server has
more to do than it can, is sentenced: those of its connections that bring more than four useless calls for each useful
one are closed, and for a while, longer each time, it may open no new ones.

gRPC's own threads handle much that never becomes a call: pings, settings, calls above the limit of a connection, and
calls that are reset before they are taken up. A connection whose bytes are in no relation to its calls pays for them,
too.

Nothing here reads a clock or touches a socket; `server/watch.py` does. What happens to calls is written by the event
loop, the rest by the one thread that judges.
"""

from __future__ import annotations

import functools
import heapq
import ipaddress
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server.connections import Connection, Endpoint, endpoint
from server.filters import Network

_REFILL = 30.0  # points a second
_CHEAP = 0.25  # points of a call that was answered for little, or was reset at once
# Points of a call that was refused for want of room, or because its connection is to end with the authority of its
# certificate: honest callers meet that, too, a whole fleet of them at once.
_NO_ROOM = 0.1
_EXCUSED = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
_AT_ONCE = 0.02  # seconds; a call that is reset by then was never meant. Hedged calls and deadlines live longer.
_WHILE = 0.1  # seconds in which more than the first window of a message can arrive
_WINDOW = 64 * 1024  # bytes of a message that HTTP/2 lets a caller send unasked
_RATIO = 4  # useless calls for each useful one, which a connection may bring
_SHARE = 0.05  # of all points that were spent of late: who has more is part of a flood
_LEAST = 2.5  # points of late; less is not worth a sentence
_MEMORY = 5.0  # seconds in which what a connection has brought fades to a third
_LATELY = 1.0  # seconds in which what an address has spent fades to a third
_LONGEST, _SHORTEST = 60.0, 2.0  # seconds that an address may open no connections
_SHARED = 2.0  # the same, at most, where others behind the address are served
_FORGOTTEN = 300.0  # seconds after which a sentence does not lengthen the next one
_BYTES = 10_000  # that cost a point, of those that belong to no call
_TALK = (
    30  # a connection that is sent more than one byte for so many of its own, beside answers, talks with gRPC itself
)
_OVERHEAD = 2048  # bytes around the answer to a call: its status, and the reason of a refusal
_TALKED = 32 * 1024  # bytes beside its calls that such a connection may send
_HANDSHAKE = 16 * 1024  # bytes that TLS may say beside answers: a chain of certificates, and tickets to resume with
_TALK_BYTES = 500  # of either that cost a point: thirty pings, each of which costs gRPC a good part of what a call does
_TALK_FADING = 16 * 1024  # bytes a second that are forgotten of them
_SILENT = 32 * 1024 * 1024  # bytes that any other may: messages that were not taken up yet, or that were given up
_FADING = 1024 * 1024  # bytes a second that are forgotten of those
_PAST = 30.0  # seconds in which what a connection has sent and was sent fades to a third
_WAITING = 10.0  # seconds that calls of a closed connection may wait to be taken up
_MOST = 16_384  # connections that are remembered where nobody judges them


@dataclass(slots=True, eq=False)
class Traffic:
    """What came over one connection or, through a trusted proxy, from one address."""

    end: Endpoint | None  # None: it cannot be closed, only refused
    party: str  # whom it counts for: an IPv4 address, the /64 of an IPv6 address
    number: int  # in the order in which they were first seen
    # Written by the event loop.
    calls: int = 0  # that were taken up
    bytes: int = 0  # of messages that were read, and of those that may have come in vain
    answered: int = 0  # bytes of answers
    waiting: int = 0  # calls whose message has not come
    useful: int = 0
    useless: float = 0.0  # points
    excused: float = 0.0  # those of them for what honest callers of an overloaded server meet, too: no room, no time
    served: bool = False  # whether an answer to a classification was sent, be it to a piece of a stream that goes on
    # Written by the thread that judges.
    refused: bool = False  # each further call is refused at once
    useless_bytes: float = 0.0  # points, too
    judged: tuple[int, float, float] = (0, 0.0, 0.0)  # useful, useless and excused, when it was last judged
    lately: tuple[float, float] = (0.0, 0.0)  # the same, faded
    looked: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)  # received, sent, bytes, answered, calls, at the last look
    flow: tuple[float, float] = (0.0, 0.0)  # bytes received, and sent beside answers, faded
    extra: float = 0.0  # bytes that belong to no call
    missed: int = 0  # looks in a row that did not find it

    @property
    def floods(self) -> bool:
        """Whether it brings much more that is useless than is useful."""
        useful, useless = self.lately
        return useless >= 1 and useless > _RATIO * useful


@dataclass(slots=True)
class _Party:
    points: float
    at: float  # when they were counted
    spent: float = 0.0  # of late
    excused: float = 0.0  # the part of it that is excused
    sentences: int = 0
    sentenced: float = -math.inf  # when, the last time
    until: float = -math.inf  # no new connections, and those that could not be closed are refused their calls
    passing: int = 0  # connections that came and went without a call, since it was judged
    closed: bool = False  # whether it has connections of its own; what comes through a trusted proxy has none
    spared: set[Endpoint] = field(default_factory=set)  # connections that may stay meanwhile


@dataclass(frozen=True, slots=True)
class Sentence:
    """Connections to close at once, and that their address may open none for so many seconds."""

    party: str
    reason: str  # one of `REASONS`
    ends: Sequence[Endpoint]
    seconds: float


REASONS = ("flood", "share", "blocked")


class Guard:
    """The account of all connections."""

    def __init__(
        self,
        *,
        allowance: int = 256,
        most: int = 1000,
        share: int = 750,
        message_bytes: int = 16 * 1024 * 1024,
        header_bytes: int = 16 * 1024,
        proxies: Iterable[Network] = (),
    ) -> None:
        """Nothing has come yet.

        Args:
            allowance: points that an address may spend at once.
            most: connections that all may hold.
            share: connections that one address may hold.
            message_bytes: of the largest message.
            header_bytes: of the largest headers of a call.
            proxies: whose connections carry many callers: they are never closed.
        """
        self.share = share
        self.spent = 0.0  # points of all calls so far
        self.refuses = False  # whether anybody's calls are refused at once
        self.noted = False  # whether a look has found bytes that belong to no call
        self.wake: Callable[[], object] = int  # called when much was spent since the last time
        self._most_connections, self._allowance = most, allowance
        self._message_bytes, self._header_bytes = message_bytes, header_bytes
        self._proxies = tuple(proxies)
        self._peers: dict[str, Traffic] = {}
        self._ends: dict[Endpoint, Traffic] = {}
        self._parties: dict[str, _Party] = {}
        self._numbers = 0
        self._next_wake = 64.0
        self._last: float | None = None  # when it was judged
        self._last_look: float | None = None

    def __len__(self) -> int:
        return len(self._peers) + len(self._ends)

    # For the event loop.

    def began(self, peer: str, forwarded: str = "") -> Traffic:
        """A call has been taken up.

        Args:
            peer: the connection's other end, as gRPC writes it.
            forwarded: the address that a trusted proxy says the call comes from; "": it comes from the peer itself.
        """
        traffic = self._peers.get(forwarded or peer)
        if traffic is None:
            traffic = self._first(peer, forwarded)
        traffic.calls += 1
        return traffic

    def refused(self, peer: str, forwarded: str = "") -> Traffic | None:
        """Whether further calls are refused at once; to be asked while the guard `refuses` anybody."""
        traffic = self._peers.get(forwarded or peer) or self._first(peer, forwarded)
        return traffic if traffic.refused else None

    def ended(self, traffic: Traffic, code: str, *, received: int, gated: bool, seconds: float) -> None:
        """A call has ended.

        Args:
            traffic: what `began` returned.
            code: its status.
            received: bytes of its messages.
            gated: whether its method is one that classifies.
            seconds: from its beginning on.
        """
        if not received:
            # Part of its message may have come.
            long = seconds > _WHILE or code == "RESOURCE_EXHAUSTED"
            traffic.bytes += self._message_bytes if long else _WINDOW
        if code == "OK" and gated and received:
            traffic.useful += 1
            return
        if code in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}:
            points = 0.0 if received else _NO_ROOM
        elif code in {"CANCELLED", "DEADLINE_EXCEEDED"}:
            # Whole messages that come too late for a deadline of milliseconds are what an impatient caller sends.
            points = _CHEAP if not received or (code == "CANCELLED" and seconds < _AT_ONCE) else 0.0
        elif not received or code in {"UNAUTHENTICATED", "UNIMPLEMENTED"}:
            points = 1.0
        elif code == "INVALID_ARGUMENT" or not gated:
            points = _CHEAP
        else:
            points = 0.0
        if points and not traffic.refused:
            traffic.useless += points
            if code in _EXCUSED:
                traffic.excused += points
            self.spent += points
            if self.spent >= self._next_wake:
                self._next_wake = self.spent + 64
                self.wake()

    # For the thread that judges.

    def look(self, now: float, found: Iterable[Connection], *, block: bool = False) -> list[Sentence]:
        """Take note of all connections that there are, as the kernel counts them.

        `block`: close what has come meanwhile from where nothing may come, because the kernel does not.
        """
        seconds = 0.0 if self._last_look is None else now - self._last_look
        self._last_look = now
        there: set[Endpoint] = set()
        held: defaultdict[str, list[Traffic]] = defaultdict(list)
        late: defaultdict[str, list[Endpoint]] = defaultdict(list)
        for connection in found:
            there.add(connection.peer)
            traffic = self._known(connection.peer)
            if self._is_proxy(connection.peer.address):
                continue
            self._weigh(traffic, connection, seconds)
            held[traffic.party].append(traffic)
            party = self._parties.get(traffic.party)
            blocked = block and party is not None and now < party.until and connection.peer not in party.spared
            if blocked and not traffic.refused:
                traffic.refused = True
                late[traffic.party].append(connection.peer)
        self._forget(now, there)
        sentences = [Sentence(party, "blocked", ends, 0.0) for party, ends in late.items()]
        sentences += [self._cut(now, name, held[name], over) for name, over in self._too_many(held).items()]
        return sentences

    def judge(self, now: float, *, pressed: bool) -> list[Sentence]:
        """Settle what was spent since the last time; `pressed`: the server has more to do than it can."""
        seconds = 0.0 if self._last is None else now - self._last
        self._last = now
        self.noted = False
        useful, useless, excused = self._settle(seconds)
        fading = math.exp(-seconds / _LATELY)
        passing = {name for name, party in self._parties.items() if party.passing}
        for name in passing:
            useless[name] += self._parties[name].passing
        for party in self._parties.values():
            party.spent *= fading
            party.excused *= fading
        for name in useful.keys() | useless.keys():
            party = self._party(name, now)
            most = self._most(party)
            gained = _REFILL * (now - party.at) + useful[name]
            party.points = max(-most, min(most, party.points + gained) - useless[name])
            party.at = now
            party.spent += useless[name]
            party.excused += excused[name]
        if not pressed:
            for name in passing:
                self._parties[name].passing = 0
            return []
        # Many addresses, each within its own allowance, are one flood. Who brings most of it goes, until a quarter of
        # what one may spend is left of it: a server that is slow because of them takes up only a few calls of each.
        total = rest = sum(party.spent for party in self._parties.values())
        much, little = self._allowance < total, self._allowance / 4
        sentences = []
        for name in sorted(useless, key=lambda each: -self._parties[each].spent):
            party = self._parties[name]
            # Honest callers, too, are refused or late while others flood: what refills meanwhile is no part of it.
            part = party.spent - min(party.excused, _REFILL * _LATELY)
            large = much and (part > _SHARE * total or (rest > little and part > _LEAST))
            rest -= party.spent
            if party.points < 0 or large:
                sentence = self._sentence(now, name, party)
                if sentence is not None:
                    sentences.append(sentence)
        for name in passing:
            self._parties[name].passing = 0
        return sentences

    def blocked(self, now: float) -> list[Network]:
        """Where no new connections may come from at the moment."""
        networks = []
        for name, party in self._parties.items():
            if now < party.until and party.closed and (network := _network(name)) is not None:
                networks.append(network)
        return networks

    def pardon(self, now: float) -> None:
        """Take back up the calls of those whose time is over and whose connections could not be closed."""
        self.refuses = False
        for traffic in (*tuple(self._peers.values()), *tuple(self._ends.values())):
            if traffic.refused:
                traffic.refused = traffic.missed > 0 or not self._is_over(traffic, now)
                self.refuses = self.refuses or traffic.refused

    # Inside.

    def _first(self, peer: str, forwarded: str) -> Traffic:
        if len(self) >= 2 * _MOST:  # nobody looks at them: not on Linux, or at the port for probes
            self._peers.clear()
            self._ends.clear()
        end = None if forwarded else endpoint(peer)
        if end is None or self._is_proxy(end.address):
            name = party_of(forwarded) if forwarded else peer if end is None else end.address
            traffic = self._traffic(None, name)
            # Nothing else keeps out the next address of an IPv6 network that floods through a proxy: the kernel sees
            # the proxy's alone.
            if forwarded and self._last is not None and (party := self._parties.get(name)) is not None:
                traffic.refused = self._last < party.until
        else:
            traffic = self._known(end)
        self._peers[forwarded or peer] = traffic
        return traffic

    def _known(self, end: Endpoint) -> Traffic:
        # The event loop and the thread that judges may both be the first: they get the same.
        return self._ends.get(end) or self._ends.setdefault(end, self._traffic(end, party_of(end.address)))

    def _traffic(self, end: Endpoint | None, party: str) -> Traffic:
        self._numbers += 1
        return Traffic(end, party, self._numbers)

    def _is_proxy(self, address: str) -> bool:
        return bool(self._proxies) and any(ipaddress.ip_address(address) in each for each in self._proxies)

    def _party(self, name: str, now: float) -> _Party:
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = _Party(float(self._allowance), now)
        return party

    def _most(self, party: _Party) -> float:
        """The allowance: less, the more often an address was sentenced lately."""
        return max(_REFILL, self._allowance / (1 << party.sentences))

    def _weigh(self, traffic: Traffic, connection: Connection, seconds: float) -> None:
        """Charge a connection for bytes that belong to none of its calls."""
        received, sent, taken, answered, calls = traffic.looked
        traffic.looked = (
            connection.received,
            connection.sent,
            traffic.bytes,
            traffic.answered,
            traffic.calls,
        )
        came, went = connection.received - received, connection.sent - sent
        begun = traffic.calls - calls
        fading = math.exp(-seconds / _PAST)
        inward = traffic.flow[0] * fading + came
        outward = traffic.flow[1] * fading + went - (traffic.answered - answered) - _OVERHEAD * begun
        traffic.flow = inward, outward
        if (outward - _HANDSHAKE) * _TALK > inward:
            most, price, forgotten = _TALKED, _TALK_BYTES, _TALK_FADING
        else:  # before its first call is taken up, too: a client that is back sends what has waited for that at once
            most, price, forgotten = _SILENT + self._message_bytes * traffic.waiting, _BYTES, _FADING
        known = traffic.bytes - taken + self._header_bytes * begun
        traffic.extra = max(0.0, traffic.extra + came - known - forgotten * seconds)
        if traffic.extra > most:
            traffic.useless_bytes += (traffic.extra - most) / price
            traffic.extra = float(most)
            self.noted = True

    def _forget(self, now: float, there: set[Endpoint]) -> None:
        for end, traffic in tuple(self._ends.items()):
            traffic.missed = 0 if end in there else traffic.missed + 1
            if traffic.missed > 1 and self._is_over(traffic, now):  # one may have come during the look
                self._ends.pop(end, None)
                if not traffic.calls and not traffic.refused and not self._is_proxy(end.address):
                    self._party(traffic.party, now).passing += 1
        for peer, traffic in tuple(self._peers.items()):
            # What came through a proxy has no end that could be seen: it goes when all of it has faded.
            gone = traffic.missed > 1 if traffic.end is not None else max(traffic.lately) < _CHEAP
            if gone and self._is_over(traffic, now):
                self._peers.pop(peer, None)
        for name, party in tuple(self._parties.items()):
            if now >= party.until and now - max(party.at, party.sentenced) > _FORGOTTEN:
                del self._parties[name]

    def _is_over(self, traffic: Traffic, now: float) -> bool:
        """Whether no more of its calls are to be expected; those of a closed connection may wait to be taken up."""
        party = self._parties.get(traffic.party)
        waits = _WAITING if traffic.end is not None and traffic.missed else 0.0
        return not traffic.refused or party is None or now >= max(party.until, party.sentenced + waits)

    def _settle(self, seconds: float) -> tuple[Counter[str], defaultdict[str, float], defaultdict[str, float]]:
        """Points that each party has gained and spent since the last time, and how much of that is excused."""
        gained: Counter[str] = Counter()
        spent: defaultdict[str, float] = defaultdict(float)
        excused: defaultdict[str, float] = defaultdict(float)
        fading = math.exp(-seconds / _MEMORY)
        recent = min(1.0, _MEMORY / seconds) if seconds else 1.0  # of what was gained since, so much counts as recent
        for traffic in {
            id(each): each for each in (*tuple(self._peers.values()), *tuple(self._ends.values()))
        }.values():
            now = traffic.useful, traffic.useless + traffic.useless_bytes, traffic.excused
            useful, useless = now[0] - traffic.judged[0], now[1] - traffic.judged[1]
            excused[traffic.party] += now[2] - traffic.judged[2]
            traffic.judged = now
            traffic.lately = traffic.lately[0] * fading + useful * recent, traffic.lately[1] * fading + useless
            if useful:
                gained[traffic.party] += useful
            if useless:
                spent[traffic.party] += useless
        return gained, spent, excused

    def _sentence(self, now: float, name: str, party: _Party) -> Sentence | None:
        mine = [each for each in (*tuple(self._peers.values()), *tuple(self._ends.values())) if each.party == name]
        most = max((each.lately[1] for each in mine if not each.refused), default=0.0)
        # Not those who bring little beside the others: somebody else behind the address, who was refused now and then.
        guilty = {
            id(each): each for each in mine if each.floods and not each.refused and 4 * each.lately[1] >= most
        }.values()
        party.points = max(0.0, party.points)
        if not guilty and not party.passing:
            return None
        if now - party.sentenced > _FORGOTTEN:
            party.sentences = 0
        ends = [each.end for each in guilty if each.end is not None]
        stay = {each.end for each in mine if each.end is not None and not each.refused and each not in guilty}
        serves = any(each.lately[0] >= 1 and not each.floods for each in mine)
        for each in guilty:
            each.refused = True
        party.spared, party.closed = stay, bool(ends) or party.passing > 0
        if now >= party.until:  # else it is the same flood, over another connection
            seconds = min(_SHARED if serves else _LONGEST, _SHORTEST * 2**party.sentences)
            party.sentences = min(party.sentences + 1, 6)
            party.sentenced, party.until = now, now + seconds
        party.points = self._most(party)
        party.spent = party.excused = 0.0  # which was paid for
        self.refuses = True
        return Sentence(name, "flood", ends, party.until - now)

    def _too_many(self, held: Mapping[str, list[Traffic]]) -> dict[str, list[Traffic]]:
        """Connections to be closed, by address, because it or all together hold too many.

        An address that holds just as many as it may has none to be closed, and may open no more.

        Where all together are too many, those go first over which no answer to a classification was sent, and of those
        the ones of the addresses that have most of them: somebody with many addresses, each of which holds a few, must
        not have a single one that is served give back all that it holds.
        """
        over: dict[str, list[Traffic]] = {}
        for name, mine in held.items():
            mine.sort(key=lambda each: each.number)
            if len(mine) >= self.share:
                over[name] = mine[self.share :]
        excess = sum(min(len(each), self.share) for each in held.values()) - self._most_connections
        if excess > 0:
            ranked: list[tuple[bool, int, int, Traffic]] = []
            for mine in held.values():
                for served in (False, True):
                    same = [each for each in mine[: self.share] if each.served == served]
                    # Where each address has one alone, the oldest goes: who has just come had no time to be served.
                    ranked += [
                        (served, -place, -each.number if served else each.number, each)
                        for place, each in enumerate(same)
                    ]
            for *_, each in heapq.nsmallest(excess, ranked):
                over.setdefault(each.party, []).append(each)
        return over

    def _cut(self, now: float, name: str, held: list[Traffic], over: list[Traffic]) -> Sentence:
        """Close what an address holds too much, and let it open no more for a moment."""
        party = self._party(name, now)
        party.until, party.closed = max(party.until, now + _SHORTEST), True
        for each in over:
            each.refused = True
        party.spared = {each.end for each in held if each.end is not None and not each.refused}
        return Sentence(name, "share", [each.end for each in over if each.end is not None], _SHORTEST)


def party_of(address: str) -> str:
    """Whom an address counts for: an IPv4 address itself, an IPv6 address its /64, which is what one customer gets."""
    network = _network(address)
    if network is None:
        return address
    return str(network.network_address) if network.version == 4 else str(network)


@functools.lru_cache(4096)
def _network(address: str) -> Network | None:
    """What counts as one party: an IPv4 address, the /64 of an IPv6 address; None: it is neither."""
    try:
        if "/" in address:
            return ipaddress.ip_network(address)
        inside = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(inside, ipaddress.IPv4Address):
        return ipaddress.IPv4Network(inside)
    if inside.ipv4_mapped is not None:
        return ipaddress.IPv4Network(inside.ipv4_mapped)
    return ipaddress.IPv6Network((inside, 64), strict=False)
