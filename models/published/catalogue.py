"""Every published checkpoint by architecture, variant and tag."""

from __future__ import annotations

from glimpse.models.published import from_keras, from_packages, from_timm, from_torchvision
from glimpse.models.published.checkpoint import Checkpoint
from glimpse.models.suggestions import did_you_mean

DEFAULT_TAG = "imagenet"

_ROWS: tuple[Checkpoint, ...] = (
    *from_keras.ROWS,
    *from_torchvision.ROWS,
    *from_timm.ROWS,
    *from_packages.ROWS,
)


class UnknownCheckpointError(ValueError):
    """The catalogue has no such weights; the message lists similar names."""


def listing() -> tuple[Checkpoint, ...]:
    """All checkpoints: Keras', then torchvision's, then timm's, then those in packages."""
    return _ROWS


def tags(architecture: str, variant: str | None = None) -> tuple[str, ...]:
    """What `find` knows the checkpoints of a network by, aliases too, the default first; empty where there are none.

    Args:
        architecture: a row of the library, for example ``"resnet50"``.
        variant: which form of it; None: the first that is published.
    """
    rows = sorted(_of(architecture, variant), key=lambda row: row.tag != DEFAULT_TAG)
    return tuple(name for row in rows for name in (row.tag, row.alias) if name)


def find(architecture: str, variant: str | None = None, tag: str = DEFAULT_TAG) -> Checkpoint:
    """The checkpoint of that network and tag.

    Args:
        architecture: a row of the library, for example ``"resnet50"``.
        variant: which form of it; None: the first that is published, Keras' before torchvision's before timm's.
        tag: ``"imagenet"`` for the variant's default, or another of `tags`.

    Raises:
        UnknownCheckpointError: with near matches in the message.
    """
    rows = _of(architecture, variant)
    for row in rows:
        if tag in (row.tag, row.alias):
            return row
    if rows:
        raise UnknownCheckpointError(
            f"{architecture} ({rows[0].variant}) has no published weights {tag!r}."
            f"{did_you_mean(tag, tags(architecture, variant))}"
        )
    if variants := dict.fromkeys(row.variant for row in _ROWS if row.architecture == architecture):
        raise UnknownCheckpointError(
            f"Nobody has published weights of {architecture} as {variant!r}.{did_you_mean(variant or '', variants)}"
        )
    known = dict.fromkeys(row.architecture for row in _ROWS)
    raise UnknownCheckpointError(
        f"No published weights of {architecture!r} are known.{did_you_mean(architecture, known)}"
    )


def _of(architecture: str, variant: str | None = None) -> tuple[Checkpoint, ...]:
    rows = [row for row in _ROWS if row.architecture == architecture]
    if variant is None and rows:
        variant = rows[0].variant
    return tuple(row for row in rows if row.variant == variant)
