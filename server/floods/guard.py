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

Nothing here reads a clock or touches a socket; `server/floods/connection_monitor.py` does. Calls are recorded by the
event loop, the rest is written by the monitor's thread alone.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from glimpse.server.floods.connection_limits import too_many
from glimpse.server.floods.penalties import CHEAP, EXCUSED, FORGOTTEN, REFILL, SHORTEST, Account, Penalty, points
from glimpse.server.floods.traffic import Traffic
from glimpse.server.sockets.addresses import counted_address, counted_network
from glimpse.server.sockets.connections import Connection, Endpoint, endpoint
from glimpse.server.sockets.filters import Network

_LEAST_ALLOWANCE = 64  # points, of one of many workers
_LEAST_REFILL = REFILL / 4  # points a second, likewise
_MESSAGE_SECONDS = 0.1  # in which more than the first window of a message can arrive
_WINDOW = 64 * 1024  # bytes of a message that HTTP/2 lets a caller send unasked
_LEAST_PART = 0.05  # of all points that were spent of late: who has more is part of a flood
_LEAST_POINTS = 2.5  # points of late; less is not worth a penalty
_CONNECTION_DECAY = 5.0  # seconds in which what a connection has brought fades to a third
_ADDRESS_DECAY = 1.0  # seconds in which what an address has spent fades to a third
_WAITING = 10.0  # seconds that calls of a closed connection may wait to be taken up
_MOST = 16_384  # connections that are remembered where no monitor runs


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
        workers: int = 1,
    ) -> None:
        """Nothing is recorded yet.

        Args:
            allowance: penalty points that an address may spend at once, at all workers together.
            most: connections that all may hold.
            share: connections that one address may hold.
            message_bytes: of the largest message.
            header_bytes: of the largest headers of a call.
            proxies: whose connections carry many callers: they are never closed.
            workers: that serve the same port. Each counts what comes to it and blocks by itself, so each has a part
                of the allowance and of its refill; a flood over many connections comes to all of them.
        """
        self.share = share
        self.points = 0.0  # penalty points of all calls so far
        self.refuses = False  # whether anybody's calls are refused at once
        self.unexplained = False  # whether a look has found bytes that belong to no call
        self.wake: Callable[[], object] = int  # called when many points were spent since the last time
        self._most_connections = most
        # Not less than an honest caller spends whose only connection leads here.
        self._allowance = min(allowance, max(_LEAST_ALLOWANCE, -(-allowance // workers)))
        self._refill = max(_LEAST_REFILL, REFILL / workers)
        self._message_bytes, self._header_bytes = message_bytes, header_bytes
        self._proxies = tuple(proxies)
        self._peers: dict[tuple[str, int], Traffic] = {}
        self._ends: dict[Endpoint, Traffic] = {}
        self._accounts: dict[str, Account] = {}
        self._numbers = 0
        self._next_wake = 64.0
        self._last: float | None = None  # when the last evaluation was
        self._last_look: float | None = None

    def __len__(self) -> int:
        return len(self._peers) + len(self._ends)

    # For the event loop.

    def began(self, peer: str, forwarded: str = "", port: int = 0) -> Traffic:
        """A call has been taken up by the server.

        Args:
            peer: the connection's other end, as gRPC writes it.
            forwarded: the address that a trusted proxy says the call comes from; "": it comes from the peer itself.
            port: of this process, where it is not that for gRPC.
        """
        traffic = self._peers.get((forwarded or peer, port))
        if traffic is None:
            traffic = self._first(peer, forwarded, port)
        traffic.calls += 1
        return traffic

    def refused(self, peer: str, forwarded: str = "", port: int = 0) -> Traffic | None:
        """Whether further calls are refused at once; to be asked while the guard `refuses` anybody."""
        traffic = self._peers.get((forwarded or peer, port)) or self._first(peer, forwarded, port)
        return traffic if traffic.refused else None

    def malformed(self, peer: str, port: int) -> None:
        """What came over a connection to another port than that for gRPC is none of its protocol; it is closed."""
        traffic = self.began(peer, "", port)
        self.ended(traffic, "INVALID_ARGUMENT", received=0, gated=False, seconds=0.0)

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
        spent = points(code, received=received, gated=gated, seconds=seconds)
        if spent and not traffic.refused:
            traffic.useless += spent
            if code in EXCUSED:
                traffic.excused += spent
            self.points += spent
            if self.points >= self._next_wake:
                self._next_wake = self.points + 64
                self.wake()

    def blocks(self, address: str, now: float) -> bool:
        """Whether no new connections from an address (see `counted_address`) are accepted for now."""
        account = self._accounts.get(address)
        # Not a proxy's own: none of its connections is closed either, because they are those of many.
        return account is not None and account.closed and now < account.blocked_until

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
            self.unexplained |= traffic.charge_bytes(
                connection, seconds, message_bytes=self._message_bytes, header_bytes=self._header_bytes
            )
            if not connection.peer.own:  # other ports bound their connections when they accept them
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
        excess = too_many(held, share=self.share, most=self._most_connections)
        penalties += [self._close_excess(now, name, held[name], over) for name, over in excess.items()]
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
            account.count(now, self._allowance, gained=useful[name], spent=useless[name], excused=excused[name])
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
            part = account.recent - min(account.excused, self._refill * _ADDRESS_DECAY)
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
            if now < account.blocked_until and account.closed and (network := counted_network(name)) is not None:
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

    def _first(self, peer: str, forwarded: str, port: int) -> Traffic:
        if len(self) >= 2 * _MOST:  # nobody looks at them: not on Linux, or at the port for probes
            self._peers.clear()
            self._ends.clear()
        end = None if forwarded else endpoint(peer, port)
        if end is None or self._is_proxy(end.address):
            name = counted_address(forwarded) if forwarded else peer if end is None else end.address
            traffic = self._traffic(None, name)
            # Nothing else keeps out the next address of an IPv6 network that floods through a proxy: the kernel sees
            # the proxy's alone.
            if forwarded and self._last is not None and (account := self._accounts.get(name)) is not None:
                traffic.refused = self._last < account.blocked_until
        else:
            traffic = self._known(end)
        self._peers[forwarded or peer, port] = traffic
        return traffic

    def _known(self, end: Endpoint) -> Traffic:
        # The event loop and the monitor's thread may both be the first: they get the same.
        return self._ends.get(end) or self._ends.setdefault(end, self._traffic(end, counted_address(end.address)))

    def _traffic(self, end: Endpoint | None, address: str) -> Traffic:
        self._numbers += 1
        return Traffic(end, address, self._numbers)

    def _is_proxy(self, address: str) -> bool:
        return bool(self._proxies) and any(ipaddress.ip_address(address) in each for each in self._proxies)

    def _account(self, name: str, now: float) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(float(self._allowance), now, self._refill)
        return account

    def _forget(self, now: float, there: set[Endpoint]) -> None:
        for end, traffic in tuple(self._ends.items()):
            traffic.missed = 0 if end in there else traffic.missed + 1
            if traffic.missed > 1 and self._is_over(traffic, now):  # one may have come during the look
                self._ends.pop(end, None)
                if not traffic.calls and not traffic.refused and not self._is_proxy(end.address):
                    self._account(traffic.address, now).passing += 1
        for peer, traffic in tuple(self._peers.items()):
            # What came through a proxy has no end that could be seen: it goes when its counts have decayed.
            gone = traffic.missed > 1 if traffic.end is not None else max(traffic.recent) < CHEAP
            if gone and self._is_over(traffic, now):
                self._peers.pop(peer, None)
        for name, account in tuple(self._accounts.items()):
            if now >= account.blocked_until and now - max(account.at, account.blocked_at) > FORGOTTEN:
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

    def _penalise(self, now: float, name: str, account: Account) -> Penalty | None:
        mine = [each for each in self._all() if each.address == name]
        most = max((each.recent[1] for each in mine if not each.refused), default=0.0)
        # Not those that bring little compared with the others: another caller behind the address, refused sometimes.
        flooding = {
            id(each): each for each in mine if each.floods and not each.refused and 4 * each.recent[1] >= most
        }.values()
        account.left = max(0.0, account.left)
        if not flooding and not account.passing:
            return None
        ends = [each.end for each in flooding if each.end is not None]
        stay = {each.end for each in mine if each.end is not None and not each.refused and each not in flooding}
        serves = any(each.recent[0] >= 1 and not each.floods for each in mine)
        for each in flooding:
            each.refused = True
        account.kept, account.closed = stay, bool(ends) or account.passing > 0
        account.block(now, self._allowance, shared=serves)
        self.refuses = True
        return Penalty(name, "flood", ends, account.blocked_until - now)

    def _close_excess(self, now: float, name: str, held: list[Traffic], over: list[Traffic]) -> Penalty:
        """Close what an address holds too much, and let it open no more for a moment."""
        account = self._account(name, now)
        account.blocked_until, account.closed = max(account.blocked_until, now + SHORTEST), True
        for each in over:
            each.refused = True
        account.kept = {each.end for each in held if each.end is not None and not each.refused}
        return Penalty(name, "share", [each.end for each in over if each.end is not None], SHORTEST)
