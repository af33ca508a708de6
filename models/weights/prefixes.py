"""Removing the prefixes that wrappers and training frameworks put in front of the names of tensors.

A network that was compiled, averaged or trained on several devices is inside a wrapper, one of a training framework
inside a module. Averaged weights may be in the same file as the latest ones. The names are tried unchanged first; what
is removed from them is reported as a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from glimpse.models.weights.contents import Contents, Tensors

# What PyTorch calls a network within its wrappers: DataParallel, AveragedModel, torch.compile, FSDP, checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_COUNTERS = frozenset({"n_averaged", "num_updates", "decay"})  # that averaging keeps beside the tensors
_SHARE = 0.2  # of the names have to begin with a prefix that is tried
_PREFIXES = 12  # are tried
_DEPTH = 4
_PARTS = 3  # of a network, each in a module of its own, or they are its layers
_AVERAGED = ("ema", "averag", "swa", "teacher")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """Tensors under names that a layout may match."""

    tensors: Tensors
    notes: tuple[str, ...] = ()  # for people: what was changed


def candidates(found: Contents) -> Iterator[NamedTensors]:
    """The tensors of a file under every set of names they may be known by, the most likely first."""
    sets = (found, *found.others)
    places = [one.place for one in sets]
    for one in sets:
        notes: tuple[str, ...] = ()
        if len(sets) > 1:
            rest = ", ".join(repr(place or "the file itself") for place in places if place != one.place)
            kind = ", which are averaged," if is_averaged(one.place) else ""
            taken = repr(one.place or "the file itself")
            notes = (f"of the file's sets of tensors those of {taken}{kind} are taken, not {rest}",)
        elif one.place:
            notes = (f"the tensors are those under {one.place!r}",)
        for way in _names(one.tensors):
            yield replace(way, notes=(*notes, *way.notes))


def is_averaged(place: str) -> bool:
    """Whether a key or prefix suggests averaged weights."""
    return any(word in place.lower() for word in _AVERAGED)


def _names(tensors: Tensors) -> Iterator[NamedTensors]:
    yield NamedTensors(tensors)
    bare, notes = _without_wrappers(tensors)
    if notes:
        yield NamedTensors(bare, notes)
    for prefix in _prefixes(bare):
        inner = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
        outer = {name: value for name, value in bare.items() if not name.startswith(prefix)}
        taken_off = (*notes, f"the names begin with {prefix!r}, which is taken off")
        if not inner.keys() & outer.keys():
            yield NamedTensors({**outer, **inner}, taken_off)
        if outer:
            shown = ", ".join(name[:60] for name in list(outer)[:_SHOWN]) + (" ..." if len(outer) > _SHOWN else "")
            kind = ", which are averaged" if is_averaged(prefix) else ""
            yield NamedTensors(
                inner,
                (*taken_off, f"only the {len(inner)} tensors under it are taken{kind}; {len(outer)} are left: {shown}"),
            )
    for way in _without_parts(bare):
        yield replace(way, notes=(*notes, *way.notes))


def _without_parts(tensors: Tensors) -> Iterator[NamedTensors]:
    """The tensors of a network that is kept in a few parts, each in a module of its own: a backbone and a head."""
    parts = list(dict.fromkeys(name.partition(".")[0] for name in tensors))
    bare = {name.partition(".")[2]: value for name, value in tensors.items()}
    if 1 < len(parts) <= _PARTS and len(bare) == len(tensors) and "" not in bare:
        shown = " or ".join(repr(f"{part[:60]}.") for part in parts)
        yield NamedTensors(bare, (f"the names begin with {shown}, which is taken off",))


def _without_wrappers(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors without the names of wrappers, wherever in their names these are; and what was done."""
    seen: dict[str, None] = {}
    bare = {}
    counters = []
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[-1] in _COUNTERS and value.ndim == 0:
            counters.append(name)
            continue
        seen.update(dict.fromkeys(part for part in parts if part in _WRAPPERS))
        bare[".".join(part for part in parts if part not in _WRAPPERS)] = value
    if len(bare) + len(counters) < len(tensors):
        return tensors, ()  # two would have one name
    notes = []
    if seen:
        notes.append(f"{' and '.join(repr(part + '.') for part in seen)} is taken off the names")
    if counters:
        notes.append(f"the weights are averaged: {counters[0]!r} lies beside them")
    return (bare, tuple(notes)) if notes else (tensors, ())


def _prefixes(tensors: Tensors) -> list[str]:
    """With what many of the names begin, what speaks of averaged weights first, then the shortest."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")[:-1]
        counts.update(".".join(parts[: depth + 1]) + "." for depth in range(min(len(parts), _DEPTH)))
    often = [prefix for prefix, count in counts.items() if count >= max(2, _SHARE * len(tensors))]
    return sorted(often, key=lambda prefix: (not is_averaged(prefix), prefix.count("."), -counts[prefix]))[:_PREFIXES]
