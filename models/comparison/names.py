"""What people call a model on the command line, as a `ModelSource`."""

from __future__ import annotations

from pathlib import Path

from glimpse.models import bundle as bundles
from glimpse.models import published, random_weights, sources
from glimpse.models.bundle import Bundle, BundleError
from glimpse.models.catalogue import architectures
from glimpse.models.published import Checkpoint
from glimpse.models.sources import ModelSource
from glimpse.models.suggestions import nearest


def source(name: str) -> ModelSource:
    """The model of a name.

    Args:
        name: ``ARCHITECTURE``, with its default weights; ``ARCHITECTURE:WEIGHTS``; or ``WEIGHTS``. As for a server,
            weights are a tag, the folder of a bundle, or a weights file.

    Raises:
        ValueError: the name is empty, or has an empty part.
    """
    if not name.strip():
        raise ValueError("The name of a model is empty. Give an architecture, a bundle's folder or a weights file.")
    if _exists(name) or random_weights.seed(name) is not None:
        return ModelSource(weights=name)
    architecture, colon, weights = name.partition(":")
    if colon and not (architecture and weights):
        raise ValueError(f"A model with a colon must be ARCHITECTURE:WEIGHTS. Received: {name!r}")
    if colon:
        return ModelSource(weights=weights, architecture=architecture)
    if name in architectures():
        shipped = bundles.embedded(name)
        return ModelSource(weights=shipped[0] if shipped else published.DEFAULT_TAG, architecture=name)
    return ModelSource(weights=name)


def checkpoint(name: str) -> Checkpoint | None:
    """The published weights that a name stands for; None where it is something else, or nothing.

    Raises:
        ValueError: as for `source`.
    """
    asked = source(name)
    architecture = asked.architecture or sources.DEFAULTS.get(asked.weights, "")
    if _exists(asked.weights) or asked.weights in bundles.embedded(architecture):
        return None
    try:
        return published.find(architecture, None, asked.weights)
    except published.UnknownCheckpointError:
        return None


def resolve(name: str) -> Bundle:
    """The bundle of a name; published weights are downloaded on first use.

    Raises:
        ValueError, OSError: there is no such model, or it cannot be used; the message names it and says why.
    """
    asked = source(name)
    try:
        return sources.resolve(asked)
    except BundleError as error:
        # One word that is neither weights nor a file was most likely meant to be an architecture.
        if not asked.architecture and (hint := nearest(name, architectures())):
            raise BundleError(
                f"There is no model {name!r}: no architecture, tag, bundle folder or weights file has that name.{hint}"
            ) from error
        raise BundleError(f"{name}: {error}") from error


def _exists(name: str) -> bool:
    """Whether it is a path of something to serve: any other folder may happen to be called as an architecture is."""
    try:
        path = Path(name).expanduser()
        return (path / bundles.DESCRIPTION).is_file() if path.is_dir() else path.exists()
    except (OSError, RuntimeError, ValueError):  # too long; no home folder; a character that no path has
        return False
