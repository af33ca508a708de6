"""Every architecture of the library by name and variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from models.architectures import resnet
from models.spec import Architecture, Stage
from models.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keras import KerasTensor


class Buildable(Protocol):
    """A row that can build itself: an `Architecture` with its family's `stages` function."""

    @property
    def name(self) -> str:
        """See `Architecture`."""

    @property
    def variant(self) -> str:
        """See `Architecture`."""

    @property
    def paper(self) -> str:
        """See `Architecture`."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """See `Architecture`."""

    @property
    def classes(self) -> int:
        """See `Architecture`."""

    def stages(self, x: KerasTensor, classes: int) -> Iterator[tuple[Stage, KerasTensor]]:
        """Yield every stage with its output, from ``x [N, H, W, C]`` to the logits ``[N, classes]``."""


class UnknownArchitectureError(ValueError):
    """The library has no such architecture or variant; fix the name."""


_ROWS: tuple[Buildable, ...] = (*resnet.ROWS,)


def architectures() -> dict[str, tuple[str, ...]]:
    """Names of all architectures, each with its variants; the first variant is the default."""
    names: dict[str, tuple[str, ...]] = {}
    for row in _ROWS:
        names[row.name] = (*names.get(row.name, ()), row.variant)
    return names


def find(name: str, variant: str | None = None) -> Buildable:
    """The row of that name and variant (the first variant when None).

    Raises:
        UnknownArchitectureError: with near matches in the message.
    """
    rows = [row for row in _ROWS if row.name == name]
    if not rows:
        raise UnknownArchitectureError(
            f"No architecture is called {name!r}.{did_you_mean(name, architectures())} See models.architectures()."
        )
    for row in rows:
        if variant is None or row.variant == variant:
            return row
    variants = [row.variant for row in rows]
    raise UnknownArchitectureError(
        f"{name} has no variant {variant!r}.{did_you_mean(variant or '', variants)} It has: {', '.join(variants)}."
    )


__all__ = ["Architecture", "Buildable", "UnknownArchitectureError", "architectures", "find"]
