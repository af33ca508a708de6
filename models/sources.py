"""Find the model that a user names by a tag, a folder or a file, as a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glimpse.models import beside, foreign, published, random_weights, whole_models
from glimpse.models import bundle as bundles
from glimpse.models.bundle import Bundle, BundleError, ClassLabel, read_labels
from glimpse.models.catalogue import find
from glimpse.models.files import digests
from glimpse.models.golden import ANSWERS, FOLDER
from glimpse.models.groups import groups_of
from glimpse.models.heads import SOFTMAX
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.spec import Architecture
from glimpse.models.suggestions import did_you_mean

DEFAULT_WEIGHTS = "imagenet"
# Which architecture a tag means where none is named.
DEFAULTS: Mapping[str, str] = {DEFAULT_WEIGHTS: "efficientnet_lite0", "cifar10": "se_resnet20"}
# Names of what may lie beside weights.
LABELS, RECIPES = beside.LABELS, beside.RECIPES
# Options without influence on what a trained network answers: of training, and for the size of its input, which is the
# recipe's.
_WITHOUT_INFLUENCE = frozenset({"auxiliary", "dropout", "rho"})
_LONGEST_NAME = 200  # characters, which is what a bundle allows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model to serve, as the settings of the server give it."""

    # A tag of shipped or published weights, "random", or the path of a bundle folder, a weights file or a graph.
    weights: str
    architecture: str = ""  # name in the library; empty: that of the bundle, or the default one for a tag
    variant: str | None = None  # None: the first of the architecture
    options: Mapping[str, Any] = field(default_factory=dict)  # of the architecture; replace the variant's values
    labels: Path | None = (
        None  # file of one class a line; None: labels.txt in the folder of the weights file, or the published labels
    )
    recipe: Path | None = None  # pre-stem, TOML or JSON; None: in the folder of the weights file, or the published one
    measured_layer: str = ""  # whose statistics the network is to give, for measuring; empty: none but its novelty's


def resolve(source: ModelSource) -> Bundle:
    """Find the model that `source` names; published weights are downloaded on first use.

    Raises:
        UnknownArchitectureError: no such architecture, variant or option.
        BundleError: there is no such model, it cannot be served, or published weights cannot be downloaded; the message
            says which models there are and what to do.
    """
    return replace(_resolved(source), measured_layer=source.measured_layer)


def _resolved(source: ModelSource) -> Bundle:
    path = Path(source.weights).expanduser()
    if source.architecture:
        find(source.architecture, source.variant, source.options)
    if (path / bundles.DESCRIPTION).is_file():
        return _bundle(source, path)
    if not source.architecture and (graph := foreign.find(path)) is not None:
        return _graph(source, graph)
    if path.is_file():
        return _file(source, path)
    if path.exists() and not path.is_dir():
        whole_models.open_file(path).close()  # refuses a named pipe or a device
    if (seed := random_weights.seed(source.weights)) is not None:
        return _random(source, source.architecture or DEFAULTS[DEFAULT_WEIGHTS], seed)
    return _tagged(source)


def _tagged(source: ModelSource) -> Bundle:
    """The model of a tag, shipped or published."""
    architecture = source.architecture or DEFAULTS.get(source.weights)
    if architecture is None:
        raise BundleError(
            f"There are no weights {source.weights!r}, and {_no_bundle(source.weights)}."
            f"{did_you_mean(source.weights, (*DEFAULTS, random_weights.TAG))} Give one of these tags or a path, or "
            "name an architecture with GLIMPSE_MODEL; python -m glimpse.models list shows each with its tags."
        )
    find(architecture, source.variant, source.options)
    shipped = bundles.embedded(architecture)
    if source.weights in shipped:
        bundle = bundles.read(bundles.EMBEDDED / f"{architecture}_{source.weights}")
        if source.variant in {None, bundle.variant}:
            return _as_it_is(source, bundle)
    tags = published.tags(architecture, source.variant)
    if source.weights not in tags:
        raise BundleError(_no_weights(source, architecture, (*shipped, *tags)))
    return _published(source, architecture)


def _no_weights(source: ModelSource, architecture: str, known: tuple[str, ...]) -> str:
    """The message for a tag that is none of `known`."""
    form = f"{architecture} ({source.variant})" if source.variant else architecture
    untrained = f"The tag {random_weights.TAG} serves it untrained, with random weights."
    if other := published.elsewhere(architecture, source.variant, source.weights):
        return other
    if not known:
        return (
            f"Nobody has published weights of {form} that Glimpse knows, none are called {source.weights!r}, and "
            f"{_no_bundle(source.weights)}. Give a file or a bundle in GLIMPSE_WEIGHTS. {untrained}"
        )
    return (
        f"{form} has no weights {source.weights!r}, and {_no_bundle(source.weights)}."
        f"{did_you_mean(source.weights, known)} Give a tag or a path; python -m glimpse.models list shows the "
        f"tags. {untrained}"
    )


def _no_bundle(weights: str) -> str:
    """Why a name is not that of a bundle's folder; the folder of a training has the bundle in it."""
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        return "there is no file or bundle folder of that name"
    inner = folder / "bundle"
    hint = f", but {inner} is one" if (inner / bundles.DESCRIPTION).is_file() else ""
    return f"the folder of that name is no bundle, because it has no {bundles.DESCRIPTION}{hint}"


def _bundle(source: ModelSource, folder: Path) -> Bundle:
    bundle = bundles.read(folder)
    if source.architecture and bundle.architecture != source.architecture:
        raise BundleError(
            f"{folder} holds weights of {bundle.architecture}, not of {source.architecture}. "
            f"Set GLIMPSE_MODEL to {bundle.architecture}, or do not set it."
        )
    return _as_it_is(source, bundle)


def _as_it_is(source: ModelSource, bundle: Bundle) -> Bundle:
    """A bundle that the settings do not contradict: it has its network, its labels and its recipe.

    Raises:
        BundleError: they do.
    """
    for setting, path in (("GLIMPSE_LABELS", source.labels), ("GLIMPSE_RECIPE", source.recipe)):
        if path is not None:
            raise BundleError(
                f"{setting} is for weights files and for published and random weights, but the bundle {bundle.folder} "
                f"has its own. Received: {path}. Leave {setting} out, or give the weights file in the bundle instead "
                "of the bundle."
            )
    if not bundle.architecture and source.options:
        raise BundleError(
            f"GLIMPSE_OPTIONS is for architectures of the library, but the bundle {bundle.folder} holds a whole Keras "
            "model. Leave it out."
        )
    if bundle.architecture:
        what = f"The weights of the bundle {bundle.folder} are"
        if source.variant not in {None, bundle.variant}:
            raise BundleError(
                f"{what} for the variant {bundle.variant}. Received: {source.variant}. Leave GLIMPSE_VARIANT out."
            )
        trained = find(bundle.architecture, bundle.variant, bundle.options)
        _refuse_other_network(what, source, trained, bundle.options, "Leave the option out")
    return bundle


def _refuse_other_network(
    what: str, source: ModelSource, trained: Architecture, options: Mapping[str, Any], advice: str
) -> None:
    """Refuse options that make another network of the architecture than weights are of.

    Args:
        what: whose weights, as the beginning of a sentence.
        source: which has the options that the user gave.
        trained: the row that the weights are of.
        options: those that it was found with.
        advice: what to do, as a sentence without its end.

    Raises:
        BundleError: they do.
        ValueError: an option's value cannot be.
    """
    wanted = find(trained.name, trained.variant, {**options, **source.options})
    for name in source.options.keys() - _WITHOUT_INFLUENCE:
        if (own := getattr(trained, name)) != (other := getattr(wanted, name)):
            raise BundleError(f"{what} for {name}={own}. Received: {name}={other}. {advice}.")


def _published(source: ModelSource, architecture: str) -> Bundle:
    checkpoint = published.find(architecture, source.variant, source.weights)
    what = f"{architecture}'s weights {source.weights!r} were published"
    others = [tag for tag in published.tags(architecture, source.variant) if tag != source.weights]
    advice = "Leave the option out" + (f", or give another tag: {', '.join(others)}" if others else "")
    trained = find(architecture, checkpoint.variant, checkpoint.options)
    _refuse_other_network(what, source, trained, checkpoint.options, advice)
    source = replace(source, variant=checkpoint.variant, options={**checkpoint.options, **source.options})
    try:
        path = published.fetch(checkpoint)
    except published.FetchError as error:
        raise BundleError(str(error)) from error
    labels = read_labels(source.labels) if source.labels else checkpoint.labels
    recipe = beside.read_recipe(source.recipe) if source.recipe else checkpoint.recipe
    # Answers were recorded to the pictures that the published recipe makes, a probability for each published class.
    recorded = recipe.digest == checkpoint.recipe.digest and len(labels) == len(checkpoint.labels)
    return _made(
        path,
        name=f"{architecture}_{source.weights}",
        source=source,
        architecture=architecture,
        labels=labels,
        recipe=recipe,
        metrics={
            name: share / 100
            for name, share in (("top1", checkpoint.top1), ("top5", checkpoint.top5))
            if share is not None
        },
        temperature=checkpoint.temperature,
        golden=checkpoint.golden if recorded else "",
        # Both follow from what the published recipe makes of pictures, and from the published classes.
        novelty=checkpoint.novelty if recorded else None,
    )


def _random(source: ModelSource, architecture: str, seed: int) -> Bundle:
    # Auxiliary classifiers are for training only: there is nothing of them to be served.
    options = {option: value for option, value in source.options.items() if option != "auxiliary"}
    row = find(architecture, source.variant, options)
    recipe = beside.read_recipe(source.recipe) if source.recipe else random_weights.recipe(row)
    labels = read_labels(source.labels) if source.labels else random_weights.labels(row)
    path = random_weights.file(row, options, classes=len(labels), input_shape=recipe.shape, number=seed)
    made = _made(
        path,
        name=random_weights.name(row, seed),
        source=replace(source, options=options),
        architecture=architecture,
        labels=labels,
        recipe=recipe,
        metrics={},
    )
    return replace(made, random=True)


def _file(source: ModelSource, path: Path) -> Bundle:
    whole_models.open_file(path).close()  # before it is read for its hash, which takes very long for a sparse file
    if not source.architecture and not whole_models.holds_network(path):
        raise BundleError(_without_architecture(path))
    if not source.architecture and source.options:
        raise BundleError(
            f"GLIMPSE_OPTIONS is for architectures of the library, but GLIMPSE_MODEL does not say of which {path} are "
            "the weights. Name it, or leave the options out for a whole Keras model."
        )
    recipe = source.recipe or beside.needed(path, "recipe", RECIPES)
    labels = read_labels(source.labels or beside.needed(path, "labels", LABELS))
    made = _made(
        path,
        name=_name(path.stem),
        source=source,
        architecture=source.architecture,
        labels=labels,
        recipe=beside.read_recipe(recipe),
        metrics={},
    )
    return _calibrated(replace(made, head=beside.read_head(recipe, len(labels)) or SOFTMAX))


def _graph(source: ModelSource, graph: foreign.GraphFile) -> Bundle:
    """A graph of another framework, which is served as it is."""
    for setting, value in (("GLIMPSE_OPTIONS", source.options), ("GLIMPSE_VARIANT", source.variant)):
        if value:
            raise BundleError(
                f"{setting} is for architectures of the library, but {graph.path} is served as the graph that it is. "
                "Leave it out; or name the architecture with GLIMPSE_MODEL, to read the file's weights into that."
            )
    labels = read_labels(source.labels) if source.labels else None
    found = foreign.details(graph, labels, beside.read_recipe(source.recipe) if source.recipe else None)
    embedding = beside.read_embedding(source.recipe) if source.recipe else found.embedding
    head = beside.read_head(source.recipe, len(found.labels)) if source.recipe else None
    made = _made(
        graph.path,
        name=_name(graph.name),
        source=source,
        architecture="",
        labels=found.labels,
        recipe=found.recipe,
        metrics={},
    )
    golden = FOLDER if (graph.path.parent / FOLDER / ANSWERS).is_file() else ""
    made = _calibrated(replace(made, head=head or found.head))
    return replace(made, graph=graph.format.name, golden=golden, embedding=embedding)


def _calibrated(made: Bundle) -> Bundle:
    """A weights file or a graph with the calibration that lies beside it, if there is one."""
    if not made.head.exclusive:  # a temperature for all classes together is that of a softmax
        return made
    found = beside.calibration_of(made.weights_path, made.weights_digest, len(made.labels))
    return replace(made, temperature=found.temperature, novelty=found.novelty, drift=found.drift)


def _name(text: str) -> str:
    """A name for a model that has none but its file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:_LONGEST_NAME] or "model"


def _made(
    path: Path,
    *,
    name: str,
    source: ModelSource,
    architecture: str,
    labels: tuple[ClassLabel, ...],
    recipe: Recipe,
    metrics: Mapping[str, float],
    temperature: float = 1.0,
    golden: str = "",
    novelty: NoveltyThreshold | None = None,
) -> Bundle:
    versions = digests.file_versions(path)
    digest = digests.digest(path)
    return Bundle(
        folder=path.parent,
        name=name,
        version=digest.removeprefix("sha256:")[:8],  # a file has no version of its own
        architecture=architecture,
        variant=find(architecture, source.variant).variant if architecture else "",
        options=source.options,
        input_shape=recipe.shape,
        labels=labels,
        groups=groups_of(path.parent, labels),
        recipe=recipe,
        temperature=temperature,
        weights_file=path.name,
        weights_digest=digest,
        verified_versions=versions,
        metrics=metrics,
        golden=golden,
        golden_folder=published.GOLDEN if golden else None,
        novelty=novelty,
    )


def _without_architecture(path: Path) -> str:
    """The message for a weights file whose architecture was not given."""
    from glimpse.models import weights  # with Keras, which takes seconds to import

    try:
        likely = weights.likely_networks(path)
    except (weights.WeightsError, OSError) as error:
        return f"{path} needs an architecture, given with GLIMPSE_MODEL, and cannot be read as weights: {error}"
    return (
        f"{path} needs an architecture: give its name with GLIMPSE_MODEL. Only a .keras file, or an .h5 file with a "
        f"whole model, contains its own network; other files contain weights only.{likely}"
    )
