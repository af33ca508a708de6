"""Finding the network that a training starts from, by a name with a tag, a file or a folder, without loading Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimpse.models import beside, published, random_weights, sources, whole_models
from glimpse.models import bundle as bundles
from glimpse.models.bundle import Bundle
from glimpse.models.catalogue import architectures, find
from glimpse.models.files import digests
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.spec import Architecture
from glimpse.models.suggestions import did_you_mean

RANDOM = random_weights.TAG  # of weights that nobody has trained
# Of weights files; what ends in one of them is a path, never the name of an architecture.
_SUFFIXES = (".keras", ".h5", ".hdf5", ".pth", ".pt", ".bin", ".safetensors", ".onnx", ".tflite")


class BaseError(ValueError):
    """There is no such base, or it cannot be used for transfer learning; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A network with weights, of which a training keeps all but the classifier."""

    name: str  # for people: "efficientnet_lite0:imagenet", or the path that was given
    architecture: str  # name in the library; empty: a whole Keras model
    variant: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the architecture
    recipe: Recipe | None  # None: nobody states how images were prepared for these weights
    digest: str  # of the weights file; the tag of random weights
    licence: str  # of the weights, and where they come from, as a sentence
    bundle: Bundle | None = None  # what it is loaded from, where it has labels and a recipe of its own
    file: Path | None = None  # a weights file or a saved Keras model otherwise; both None: random weights
    seed: int | None = None  # of random weights; None: they are not random
    note: str = ""  # something that the user should know, as a sentence

    @property
    def row(self) -> Architecture | None:
        """The row of the library; None for a whole Keras model."""
        return find(self.architecture, self.variant, self.options) if self.architecture else None


def find_base(
    text: str, architecture: str = "", variant: str | None = None, options: Mapping[str, Any] | None = None
) -> Base:
    """The base that a user names.

    Args:
        text: ``NAME`` or ``NAME:TAG`` with the name of an architecture and the tag of weights that ship with the
            library or are published, or ``random`` or ``random:SEED``; or the path of a bundle folder, of a weights
            file, which needs `architecture`, or of a file with a whole Keras model.
        architecture: name in the library; empty: that in `text`, or that of the bundle.
        variant: of the architecture; None: that of the weights.
        options: of the architecture, for random weights and for a weights file.

    Raises:
        UnknownArchitectureError: no such architecture or variant.
        BaseError: no such weights; the message says which there are.
        BundleError: the weights cannot be downloaded, or the bundle is damaged.
        OSError: the path cannot be read.
    """
    path, options = Path(text).expanduser(), options or {}
    # A folder that only has the name of an architecture is not meant.
    if (path / bundles.DESCRIPTION).is_file() or (path.is_dir() and text not in architectures()):
        return _of_bundle(text, bundles.read(path), architecture, options)
    if path.exists() and not path.is_dir():
        return _of_file(path, architecture, variant, options)
    if "/" in text or path.suffix.lower() in _SUFFIXES:
        raise BaseError(
            f"--from {text} does not exist. Give a bundle folder, a weights file, or the name of a network."
        )
    name, _, tag = text.partition(":")
    if architecture and name not in architectures() and (not tag or random_weights.seed(text) is not None):
        name, tag = architecture, text
    if architecture and name != architecture:
        raise BaseError(
            f"--from {text} is a network of its own, so --architecture {architecture} contradicts it. Leave it out."
        )
    row = find(name, variant, options)
    if (seed := random_weights.seed(tag)) is not None:
        return Base(
            name=f"{name}:{tag}",
            architecture=name,
            variant=row.variant,
            options=options,
            recipe=None,
            digest=tag,
            seed=seed,
            licence="Nobody has trained these weights: they are random, so the features know nothing of pictures.",
        )
    return _published(name, variant, tag, options)


def _published(name: str, variant: str | None, tag: str, options: Mapping[str, Any]) -> Base:
    """Weights that ship with the library or are published."""
    shipped = [
        tag
        for tag in bundles.embedded(name)
        if variant in (None, bundles.read(bundles.EMBEDDED / f"{name}_{tag}").variant)
    ]
    known = (*shipped, *published.tags(name, variant))
    if not known:
        form = f"{name} ({variant})" if variant else name
        raise BaseError(
            f"There are no weights of {form} to start from. Give a weights file of it with --from FILE --architecture "
            f"{name}, or --from {name}:{RANDOM} for random weights."
        )
    tag = tag or known[0]
    if tag not in known:
        raise BaseError(
            f"{name} has no weights {tag!r}.{did_you_mean(tag, known)} Known are {', '.join(known)}, and {RANDOM}."
        )
    if tag in shipped and options:
        raise BaseError(f"The options of the network are those of the weights {tag!r}. Leave --option out.")
    found = sources.resolve(
        sources.ModelSource(
            weights=tag, architecture=name, variant=None if tag in shipped else variant, options=options
        )
    )
    licence = "These weights ship with Glimpse; their model card is beside them."
    if tag not in shipped:
        checkpoint = published.find(name, variant, tag)
        licence = (
            f"These weights are published as {checkpoint.upstream} ({checkpoint.package or checkpoint.publisher}) "
            f"under the licence {checkpoint.licence}: {checkpoint.source}."
        )
    return _from_bundle(f"{name}:{tag}", found, licence)


def _of_bundle(text: str, bundle: Bundle, architecture: str, options: Mapping[str, Any]) -> Base:
    if architecture and architecture != bundle.architecture:
        raise BaseError(
            f"{text} holds weights of {bundle.architecture or 'a Keras model'}, not of {architecture}. "
            "Leave --architecture out."
        )
    if options:
        raise BaseError(f"The options of the network are those of the bundle {text}. Leave --option out.")
    return _from_bundle(text, bundle, f"The licence of the bundle {bundle.name} {bundle.version} holds.")


def _from_bundle(name: str, bundle: Bundle, licence: str) -> Base:
    return Base(
        name=name,
        architecture=bundle.architecture,
        variant=bundle.variant,
        options=bundle.options,
        recipe=bundle.recipe,
        digest=bundle.weights_digest,
        licence=licence,
        bundle=bundle,
    )


def _of_file(path: Path, architecture: str, variant: str | None, options: Mapping[str, Any]) -> Base:
    whole = not architecture
    if whole and not whole_models.holds_network(path):
        raise BaseError(
            f"{path} holds weights alone: give the name of their network with --architecture. Only a .keras file, or "
            "an .h5 file with a whole model, has its own network."
        )
    row = None if whole else find(architecture, variant, options)
    recipe, note = beside.recipe_of(path), ""
    if recipe is None and row is not None and (tags := published.tags(row.name, row.variant)):
        recipe = published.find(row.name, row.variant, tags[0]).recipe
        note = (
            f"{path} has no recipe.toml beside it. Images are prepared as for the weights {tags[0]!r} that are "
            f"published of {row.name} ({row.variant})."
        )
    return Base(
        name=str(path),
        architecture=row.name if row else "",
        variant=row.variant if row else "",
        options=options,
        recipe=recipe,
        digest=digests.digest(path),
        licence="The licence of these weights was not stated.",
        file=path,
        note=note,
    )
