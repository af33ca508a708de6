"""Which connections are closed where an address, or all together, hold too many."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from glimpse.server.floods.traffic import Traffic


def too_many(held: Mapping[str, list[Traffic]], *, share: int, most: int) -> dict[str, list[Traffic]]:
    """Connections to be closed, by address, because it holds more than `share` or all together more than `most`.

    An address that holds just as many as it may has none to be closed, and may open no more.

    Where all together are too many, those go first over which no answer to a classification was sent, and of those
    the ones of the addresses that have most of them: somebody with many addresses, each of which holds a few, must
    not have a single one that is served give back all that it holds.
    """
    over: dict[str, list[Traffic]] = {}
    for name, mine in held.items():
        mine.sort(key=lambda each: each.number)
        if len(mine) >= share:
            over[name] = mine[share:]
    excess = sum(min(len(each), share) for each in held.values()) - most
    if excess > 0:
        ranked: list[tuple[bool, int, int, Traffic]] = []
        for mine in held.values():
            for served in (False, True):
                same = [each for each in mine[:share] if each.served == served]
                # Where each address has one alone, the oldest goes: who has just come had no time to be served.
                ranked += [
                    (served, -place, -each.number if served else each.number, each) for place, each in enumerate(same)
                ]
        for *_, each in heapq.nsmallest(excess, ranked):
            over.setdefault(each.address, []).append(each)
    return over
