"""Flood protection: what each connection has sent is counted, and evaluated by how its calls ended.

A call without a useful result costs its address one penalty point: one that ended without a message, whose token was
refused, or whose method does not exist; so does a connection that was opened and closed without a call. A call that was
reset at once costs a quarter, because an honest caller may cancel a thousand calls that wait; so does what is cheap but
answered (a health check, a broken message). A refusal for want of room costs a tenth. A classification that was
answered takes one point off. Each address has an allowance of points, which is refilled over time. One that has used it
up while the server is overloaded is blocked: those of its connections that bring more than four useless calls for each
useful one are closed, and for a while, longer each time, no new connections are accepted from it.

gRPC's own threads handle much that never becomes a call: pings, settings, calls above the limit of a connection, and
calls that are reset before the server takes them up. A connection that sends more bytes than its calls explain is
charged points for those bytes, too.

Nothing here reads a clock or touches a socket; `server/connection_monitor.py` does. Calls are recorded by the event
loop, the rest is written by the monitor's thread alone.
"""

from __future__ import annotations

import functools
import heapq
import ipaddress
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from glimpse.server.connections import Connection, Endpoint, endpoint
from glimpse.server.filters import Network

_REFILL = 30.0  # points a second
_CHEAP = 0.25  # points of a call that was answered for little, or was reset at once
# Points of a call that was refused for want of room, or because its connection is to end with the authority of its
# certificate: honest callers meet that, too, a whole fleet of them at once.
_NO_ROOM = 0.1
_EXCUSED = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
_AT_ONCE = 0.02  # seconds; a call that is reset by then was never meant. Hedged calls and deadlines live longer.
_MESSAGE_SECONDS = 0.1  # in which more than the first window of a message can arrive
_WINDOW = 64 * 1024  # bytes of a message that HTTP/2 lets a caller send unasked
_USELESS_RATIO = 4  # useless calls for each useful one, which a connection may bring
_LEAST_PART = 0.05  # of all points that were spent of late: who has more is part of a flood
_LEAST_POINTS = 2.5  # points of late; less is not worth a penalty
_CONNECTION_DECAY = 5.0  # seconds in which what a connection has brought fades to a third
_ADDRESS_DECAY = 1.0  # seconds in which what an address has spent fades to a third
_LONGEST, _SHORTEST = 60.0, 2.0  # seconds that an address may open no connections
_LONGEST_IF_SHARED = 2.0  # the same, at most, where others behind the address are served
_FORGOTTEN = 300.0  # seconds after which a penalty does not lengthen the next one
_BYTES_A_POINT = 10_000  # that cost a point, of those that belong to no call
# A connection that is sent more than one byte for so many of its own, beside answers, exchanges control frames.
_CONTROL_RATIO = 30
# Of a connection none of whose calls was taken up yet: who sends messages is granted windows, of 13 bytes for some tens
# of kilobytes. Who is sent less than that has sent calls without a message, and has reset them since.
_FIRST_BYTES, _OPENING, _GRANT = 128 * 1024, 64, 16 * 1024
_OVERHEAD = 2048  # bytes around the answer to a call: its status, and the reason of a refusal
_CONTROL_BYTES = 32 * 1024  # bytes beside its calls that such a connection may send
# Sent by TLS beside answers: a chain of certificates, and tickets to resume with.
_HANDSHAKE_BYTES = 16 * 1024
# Of either that cost a point: thirty pings, each of which costs gRPC a good part of what a call does.
_CONTROL_BYTES_A_POINT = 500
_CONTROL_BYTES_FORGOTTEN = 16 * 1024  # bytes a second that are forgotten of them
_OTHER_BYTES = 32 * 1024 * 1024  # bytes that any other may: messages that were not taken up yet, or that were given up
_OTHER_BYTES_FORGOTTEN = 1024 * 1024  # bytes a second that are forgotten of those
_BYTES_DECAY = 30.0  # seconds in which what a connection has sent and was sent fades to a third
_WAITING = 10.0  # seconds that calls of a closed connection may wait to be taken up
_MOST = 16_384  # connections that are remembered where no monitor runs


@dataclass(slots=True, eq=False)
class Traffic:
    """What came over one connection or, through a trusted proxy, from one address."""

    end: Endpoint | None  # None: it cannot be closed, its calls can only be refused
    address: str  # that it counts for, see `counted_address`
    number: int  # in the order in which they were first seen
    # Written by the event loop.
    calls: int = 0  # that were taken up
    bytes: int = 0  # of messages that were read, and the most that may have come of those that were not
    answered: int = 0  # bytes of answers
    waiting: int = 0  # calls whose message has not come
    useful: int = 0
    useless: float = 0.0  # points
    excused: float = 0.0  # those of them for what honest callers of an overloaded server meet, too: no room, no time
    served: bool = False  # whether an answer to a classification was sent, be it to a piece of a stream that goes on
    # Written by the monitor's thread.
    refused: bool = False  # each further call is refused at once
    useless_bytes: float = 0.0  # points, too
    evaluated: tuple[int, float, float] = (0, 0.0, 0.0)  # useful, useless and excused, at the last evaluation
    recent: tuple[float, float] = (0.0, 0.0)  # the same, faded
    # Received, sent, bytes, answered and calls, at the last look.
    counted: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    flow: tuple[float, float] = (0.0, 0.0)  # bytes received, and sent beside answers, faded
    extra: float = 0.0  # bytes that belong to no call
    missed: int = 0  # looks in a row that did not find it

    @property
    def floods(self) -> bool:
        """Whether it brings much more that is useless than is useful."""
        useful, useless = self.recent
        return useless >= 1 and useless > _USELESS_RATIO * useful


@dataclass(slots=True)
class _Account:
    """The penalty points of an address, and its blocks."""

    left: float  # points that it may still spend
    at: float  # when they were counted
    recent: float = 0.0  # of late
    excused: float = 0.0  # the part of it that is excused
    blocks: int = 0  # recent ones, which make the next one longer
    blocked_at: float = -math.inf  # when, the last time
    blocked_until: float = -math.inf  # no new connections, and those that could not be closed are refused their calls
    passing: int = 0  # connections that came and went without a call, since the last evaluation
    closed: bool = False  # whether it has connections of its own; what comes through a trusted proxy has none
    kept: set[Endpoint] = field(default_factory=set)  # connections that may stay while it is blocked


@dataclass(frozen=True, slots=True)
class Penalty:
    """Connections of an address to close at once, and for how long to accept no new ones from it."""

    address: str
    reason: str  # one of `REASONS`
    connections: Sequence[Endpoint]
    seconds: float


REASONS = ("flood", "share", "blocked")


class Guard:
    """Counts what all connections and addresses bring, and decides which to close and to block."""

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
        """Nothing is recorded yet.

        Args:
            allowance: penalty points that an address may spend at once.
            most: connections that all may hold.
            share: connections that one address may hold.
            message_bytes: of the largest message.
            header_bytes: of the largest headers of a call.
            proxies: whose connections carry many callers: they are never closed.
        """
        self.share = share
        self.points = 0.0  # penalty points of all calls so far
        self.refuses = False  # whether anybody's calls are refused at once
        self.unexplained = False  # whether a look has found bytes that belong to no call
        self.wake: Callable[[], object] = int  # called when many points were spent since the last time
        self._most_connections, self._allowance = most, allowance
        self._message_bytes, self._header_bytes = message_bytes, header_bytes
        self._proxies = tuple(proxies)
        self._peers: dict[str, Traffic] = {}
        self._ends: dict[Endpoint, Traffic] = {}
        self._accounts: dict[str, _Account] = {}
        self._numbers = 0
        self._next_wake = 64.0
        self._last: float | None = None  # when the last evaluation was
        self._last_look: float | None = None

    def __len__(self) -> int:
        return len(self._peers) + len(self._ends)

    # For the event loop.

    def began(self, peer: str, forwarded: str = "") -> Traffic:
        """A call has been taken up by the server.

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
            long = seconds > _MESSAGE_SECONDS or code == "RESOURCE_EXHAUSTED"
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
            self.points += points
            if self.points >= self._next_wake:
                self._next_wake = self.points + 64
                self.wake()

    # For the monitor's thread.

    def look(self, now: float, found: Iterable[Connection], *, block: bool = False) -> list[Penalty]:
        """Record all open connections, as the kernel counts their bytes.

        `block`: also close new connections from blocked addresses, because the kernel cannot drop them.
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
            self._charge_bytes(traffic, connection, seconds)
            held[traffic.address].append(traffic)
            account = self._accounts.get(traffic.address)
            blocked = (
                block and account is not None and now < account.blocked_until and connection.peer not in account.kept
            )
            if blocked and not traffic.refused:
                traffic.refused = True
                late[traffic.address].append(connection.peer)
        self._forget(now, there)
        penalties = [Penalty(address, "blocked", ends, 0.0) for address, ends in late.items()]
        penalties += [self._close_excess(now, name, held[name], over) for name, over in self._too_many(held).items()]
        return penalties

    def evaluate(self, now: float, *, overloaded: bool) -> list[Penalty]:
        """Count the points since the last time and, if the server is `overloaded`, block who has spent too many."""
        seconds = 0.0 if self._last is None else now - self._last
        self._last = now
        self.unexplained = False
        useful, useless, excused = self._sum_points(seconds)
        decay = math.exp(-seconds / _ADDRESS_DECAY)
        passing = {name for name, account in self._accounts.items() if account.passing}
        for name in passing:
            useless[name] += self._accounts[name].passing
        for account in self._accounts.values():
            account.recent *= decay
            account.excused *= decay
        for name in useful.keys() | useless.keys():
            account = self._account(name, now)
            most = self._most(account)
            gained = _REFILL * (now - account.at) + useful[name]
            account.left = max(-most, min(most, account.left + gained) - useless[name])
            account.at = now
            account.recent += useless[name]
            account.excused += excused[name]
        if not overloaded:
            for name in passing:
                self._accounts[name].passing = 0
            return []
        # Many addresses, each within its own allowance, are one flood. Who brings most of it goes, until a quarter of
        # what one may spend is left of it: a server that is slow because of them takes up only a few calls of each.
        total = rest = sum(account.recent for account in self._accounts.values())
        much, little = self._allowance < total, self._allowance / 4
        penalties = []
        for name in sorted(useless, key=lambda each: -self._accounts[each].recent):
            account = self._accounts[name]
            # Honest callers, too, are refused or late while others flood: what refills meanwhile is no part of it.
            part = account.recent - min(account.excused, _REFILL * _ADDRESS_DECAY)
            large = much and (part > _LEAST_PART * total or (rest > little and part > _LEAST_POINTS))
            rest -= account.recent
            if account.left < 0 or large:
                penalty = self._penalise(now, name, account)
                if penalty is not None:
                    penalties.append(penalty)
        for name in passing:
            self._accounts[name].passing = 0
        return penalties

    def blocked(self, now: float) -> list[Network]:
        """The networks from which no new connections are accepted at the moment."""
        networks = []
        for name, account in self._accounts.items():
            if now < account.blocked_until and account.closed and (network := _network(name)) is not None:
                networks.append(network)
        return networks

    def unblock(self, now: float) -> None:
        """Answer the calls again of those whose block has ended and whose connections could not be closed."""
        self.refuses = False
        for traffic in self._all():
            if traffic.refused:
                traffic.refused = traffic.missed > 0 or not self._is_over(traffic, now)
                self.refuses = self.refuses or traffic.refused

    # Internal.

    def _all(self) -> list[Traffic]:
        """What came over all connections; of one that is known by both names, twice. Copied: others may add to it."""
        return [*tuple(self._peers.values()), *tuple(self._ends.values())]

    def _first(self, peer: str, forwarded: str) -> Traffic:
        if len(self) >= 2 * _MOST:  # nobody looks at them: not on Linux, or at the port for probes
            self._peers.clear()
            self._ends.clear()
        end = None if forwarded else endpoint(peer)
        if end is None or self._is_proxy(end.address):
            name = counted_address(forwarded) if forwarded else peer if end is None else end.address
            traffic = self._traffic(None, name)
            # Nothing else keeps out the next address of an IPv6 network that floods through a proxy: the kernel sees
            # the proxy's alone.
            if forwarded and self._last is not None and (account := self._accounts.get(name)) is not None:
                traffic.refused = self._last < account.blocked_until
        else:
            traffic = self._known(end)
        self._peers[forwarded or peer] = traffic
        return traffic

    def _known(self, end: Endpoint) -> Traffic:
        # The event loop and the monitor's thread may both be the first: they get the same.
        return self._ends.get(end) or self._ends.setdefault(end, self._traffic(end, counted_address(end.address)))

    def _traffic(self, end: Endpoint | None, address: str) -> Traffic:
        self._numbers += 1
        return Traffic(end, address, self._numbers)

    def _is_proxy(self, address: str) -> bool:
        return bool(self._proxies) and any(ipaddress.ip_address(address) in each for each in self._proxies)

    def _account(self, name: str, now: float) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account(float(self._allowance), now)
        return account

    def _most(self, account: _Account) -> float:
        """The allowance of an address: less, the more often it was blocked recently."""
        return max(_REFILL, self._allowance / (1 << account.blocks))

    def _charge_bytes(self, traffic: Traffic, connection: Connection, seconds: float) -> None:
        """Charge a connection for bytes that belong to none of its calls."""
        received, sent, taken, answered, calls = traffic.counted
        traffic.counted = (
            connection.received,
            connection.sent,
            traffic.bytes,
            traffic.answered,
            traffic.calls,
        )
        came, went = connection.received - received, connection.sent - sent
        begun = traffic.calls - calls
        decay = math.exp(-seconds / _BYTES_DECAY)
        inward = traffic.flow[0] * decay + came
        outward = traffic.flow[1] * decay + went - (traffic.answered - answered) - _OVERHEAD * begun
        traffic.flow = inward, outward
        if (outward - _HANDSHAKE_BYTES) * _CONTROL_RATIO > inward:
            most, price, forgotten = _CONTROL_BYTES, _CONTROL_BYTES_A_POINT, _CONTROL_BYTES_FORGOTTEN
        elif not traffic.calls and connection.sent < _OPENING + connection.received // _GRANT:
            most, price, forgotten = _FIRST_BYTES, _CONTROL_BYTES_A_POINT, _CONTROL_BYTES_FORGOTTEN
        else:  # before its first call is taken up, too: a client that is back sends what has waited for that at once
            most, price, forgotten = (
                _OTHER_BYTES + self._message_bytes * traffic.waiting,
                _BYTES_A_POINT,
                _OTHER_BYTES_FORGOTTEN,
            )
        known = traffic.bytes - taken + self._header_bytes * begun
        traffic.extra = max(0.0, traffic.extra + came - known - forgotten * seconds)
        if traffic.extra > most:
            traffic.useless_bytes += (traffic.extra - most) / price
            traffic.extra = float(most)
            self.unexplained = True

    def _forget(self, now: float, there: set[Endpoint]) -> None:
        for end, traffic in tuple(self._ends.items()):
            traffic.missed = 0 if end in there else traffic.missed + 1
            if traffic.missed > 1 and self._is_over(traffic, now):  # one may have come during the look
                self._ends.pop(end, None)
                if not traffic.calls and not traffic.refused and not self._is_proxy(end.address):
                    self._account(traffic.address, now).passing += 1
        for peer, traffic in tuple(self._peers.items()):
            # What came through a proxy has no end that could be seen: it goes when its counts have decayed.
            gone = traffic.missed > 1 if traffic.end is not None else max(traffic.recent) < _CHEAP
            if gone and self._is_over(traffic, now):
                self._peers.pop(peer, None)
        for name, account in tuple(self._accounts.items()):
            if now >= account.blocked_until and now - max(account.at, account.blocked_at) > _FORGOTTEN:
                del self._accounts[name]

    def _is_over(self, traffic: Traffic, now: float) -> bool:
        """Whether its block has ended, and no call of a connection that was closed may still wait to be taken up."""
        account = self._accounts.get(traffic.address)
        waits = _WAITING if traffic.end is not None and traffic.missed else 0.0
        return not traffic.refused or account is None or now >= max(account.blocked_until, account.blocked_at + waits)

    def _sum_points(self, seconds: float) -> tuple[Counter[str], defaultdict[str, float], defaultdict[str, float]]:
        """Points that each address has gained and spent since the last time, and how much of that is excused."""
        gained: Counter[str] = Counter()
        spent: defaultdict[str, float] = defaultdict(float)
        excused: defaultdict[str, float] = defaultdict(float)
        decay = math.exp(-seconds / _CONNECTION_DECAY)
        recent = (
            min(1.0, _CONNECTION_DECAY / seconds) if seconds else 1.0
        )  # of what was gained since, so much counts as recent
        for traffic in {id(each): each for each in self._all()}.values():
            now = traffic.useful, traffic.useless + traffic.useless_bytes, traffic.excused
            useful, useless = now[0] - traffic.evaluated[0], now[1] - traffic.evaluated[1]
            excused[traffic.address] += now[2] - traffic.evaluated[2]
            traffic.evaluated = now
            traffic.recent = traffic.recent[0] * decay + useful * recent, traffic.recent[1] * decay + useless
            if useful:
                gained[traffic.address] += useful
            if useless:
                spent[traffic.address] += useless
        return gained, spent, excused

    def _penalise(self, now: float, name: str, account: _Account) -> Penalty | None:
        mine = [each for each in self._all() if each.address == name]
        most = max((each.recent[1] for each in mine if not each.refused), default=0.0)
        # Not those that bring little compared with the others: another caller behind the address, refused sometimes.
        flooding = {
            id(each): each for each in mine if each.floods and not each.refused and 4 * each.recent[1] >= most
        }.values()
        account.left = max(0.0, account.left)
        if not flooding and not account.passing:
            return None
        if now - account.blocked_at > _FORGOTTEN:
            account.blocks = 0
        ends = [each.end for each in flooding if each.end is not None]
        stay = {each.end for each in mine if each.end is not None and not each.refused and each not in flooding}
        serves = any(each.recent[0] >= 1 and not each.floods for each in mine)
        for each in flooding:
            each.refused = True
        account.kept, account.closed = stay, bool(ends) or account.passing > 0
        if now >= account.blocked_until:  # else it is the same flood, over another connection
            seconds = min(_LONGEST_IF_SHARED if serves else _LONGEST, _SHORTEST * 2**account.blocks)
            account.blocks = min(account.blocks + 1, 6)
            account.blocked_at, account.blocked_until = now, now + seconds
        account.left = self._most(account)
        account.recent = account.excused = 0.0  # which was paid for
        self.refuses = True
        return Penalty(name, "flood", ends, account.blocked_until - now)

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
                over.setdefault(each.address, []).append(each)
        return over

    def _close_excess(self, now: float, name: str, held: list[Traffic], over: list[Traffic]) -> Penalty:
        """Close what an address holds too much, and let it open no more for a moment."""
        account = self._account(name, now)
        account.blocked_until, account.closed = max(account.blocked_until, now + _SHORTEST), True
        for each in over:
            each.refused = True
        account.kept = {each.end for each in held if each.end is not None and not each.refused}
        return Penalty(name, "share", [each.end for each in over if each.end is not None], _SHORTEST)


def counted_address(address: str) -> str:
    """What an address counts as: IPv4 as itself, IPv6 as its /64, which is what providers give to one customer."""
    network = _network(address)
    if network is None:
        return address
    return str(network.network_address) if network.version == 4 else str(network)


@functools.lru_cache(4096)
def _network(address: str) -> Network | None:
    """What counts as one address: an IPv4 address, the /64 of an IPv6 address; None: it is neither."""
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
