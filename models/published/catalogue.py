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
        variant: which form of it; None: the first that is published, and then what only others have.
    """
    return tuple(dict.fromkeys(name for rows in _by_variant(architecture, variant) for name in _tags(rows)))


def find(architecture: str, variant: str | None = None, tag: str = DEFAULT_TAG) -> Checkpoint:
    """The checkpoint of that network and tag.

    Args:
        architecture: a row of the library, for example ``"resnet50"``.
        variant: which form of it; None: the first that has the tag, Keras' before torchvision's before timm's.
        tag: ``"imagenet"`` for the variant's default, or another of `tags`.

    Raises:
        UnknownCheckpointError: with near matches, or the variant that has the tag, in the message.
    """
    for rows in _by_variant(architecture, variant):
        for row in rows:
            if tag in (row.tag, row.alias):
                return row
    raise UnknownCheckpointError(_unknown(architecture, variant, tag))


def elsewhere(architecture: str, variant: str | None, tag: str) -> str:
    """What to say where a variant lacks a tag that another one has, as a sentence; empty where none has it."""
    others = (rows[0].variant for rows in _by_variant(architecture, None) if tag in _tags(rows))
    if variant is None or not (other := next(others, "")):
        return ""
    return (
        f"{architecture}'s variant {variant} has no weights {tag!r}; its variant {other} has: set "
        f"GLIMPSE_VARIANT={other} (--variant {other})."
    )


def _unknown(architecture: str, variant: str | None, tag: str) -> str:
    variants = tuple(dict.fromkeys(row.variant for row in _ROWS if row.architecture == architecture))
    if not variants:
        known = dict.fromkeys(row.architecture for row in _ROWS)
        return f"No published weights of {architecture!r} are known.{did_you_mean(architecture, known)}"
    if variant is not None and variant not in variants:
        return f"Nobody has published weights of {architecture} as {variant!r}.{did_you_mean(variant, variants)}"
    if other := elsewhere(architecture, variant, tag):
        return other
    form = f"{architecture} ({variant})" if variant else architecture
    return f"{form} has no published weights {tag!r}.{did_you_mean(tag, tags(architecture, variant))}"


def _by_variant(architecture: str, variant: str | None) -> list[tuple[Checkpoint, ...]]:
    """The checkpoints of a network, those of a variant together, in the order in which variants are looked through."""
    found: dict[str, list[Checkpoint]] = {}
    for row in _ROWS:
        if row.architecture == architecture and variant in (None, row.variant):
            found.setdefault(row.variant, []).append(row)
    return [tuple(rows) for rows in found.values()]


def _tags(rows: tuple[Checkpoint, ...]) -> tuple[str, ...]:
    """What the checkpoints of one variant are known by, the default first."""
    ordered = sorted(rows, key=lambda row: row.tag != DEFAULT_TAG)
    return tuple(name for row in ordered for name in (row.tag, row.alias) if name)
