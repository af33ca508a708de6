"""From a path to a graph with its labels and its recipe, wherever they are said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse.models import beside
from glimpse.models.errors import BundleError
from glimpse.models.foreign import configs, formats, openvino_ir, saved_model
from glimpse.models.foreign.facts import (
    GraphError,
    GraphFacts,
    ImageInput,
    classes_of,
    image_input,
    refuse_custom,
)
from glimpse.models.foreign.formats import GraphFormat
from glimpse.models.heads import SOFTMAX, Head, multi_label
from glimpse.models.labels import ClassLabel, read_labels
from glimpse.models.prestem.recipe import Recipe, change_for

# What most networks for photos were trained with, for a message.
_EXAMPLE = {"crop_share": 0.875, "smaller": "resize", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_HUB = "onnx"
_LOOKED_AT = 10_000  # entries of a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """A graph on disk."""

    path: Path  # of the file; of a SavedModel, its ``saved_model.pb``
    format: GraphFormat
    folder: Path  # in which labels, recipe and configurations are looked for first, then in that of the file
    name: str  # for people: of the file without its suffix, or of the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is needed of a graph beside the graph itself."""

    labels: tuple[ClassLabel, ...]
    recipe: Recipe
    embedding: str  # the output or node that the recipe's file names; empty: none
    head: Head = SOFTMAX  # that the recipe's file states, or else a configuration


def find(path: Path) -> GraphFile | None:
    """The graph at a path: a file, the folder of a SavedModel, or a folder with one graph in it; None: there is none.

    Raises:
        GraphError: the folder has several graphs.
    """
    try:
        if path.is_dir():
            return _in_folder(path)
        row = formats.detect(path)
    except GraphError:
        raise
    except (OSError, ValueError):
        return None  # whoever opens it next says so
    return None if row is None else _file(path, row, path.parent)


def _in_folder(folder: Path) -> GraphFile | None:
    found: list[Path] = []
    for count, entry in enumerate(sorted(folder.iterdir())):
        if count >= _LOOKED_AT:
            break
        if entry.is_dir() and (entry / saved_model.FILE).is_file():
            found.append(entry / saved_model.FILE)
        # Data sets have annotations in XML, which have no weights beside them.
        elif (
            any(entry.name.endswith(row.suffix) for row in formats.FORMATS)
            and entry.is_file()
            and (entry.suffix != ".xml" or entry.with_suffix(openvino_ir.WEIGHTS).is_file())
        ):
            found.append(entry)
    if len(found) > 1:
        named = ", ".join(str(each.relative_to(folder)) for each in found[:10])
        raise GraphError(
            f"{folder} holds several graphs, and only one can be served: {named}. Give the path of one of them."
        )
    if not found:
        return None
    (path,) = found
    try:
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise GraphError(
                f"{path} is a link that leads out of its folder. Copy the file itself, or give its own path."
            )
    except (OSError, RuntimeError):
        return None
    row = formats.detect(path)
    return None if row is None else _file(path, row, folder)


def _file(path: Path, row: GraphFormat, folder: Path) -> GraphFile:
    name = path.parent.resolve().name if path.name == saved_model.FILE else path.stem
    return GraphFile(path=path, format=row, folder=folder, name=name)


def details(graph: GraphFile, labels: tuple[ClassLabel, ...] | None, recipe: Recipe | None) -> Details:
    """Labels and recipe of a graph, which is looked at as far as that can be done without computing.

    Labels are those of the settings, of ``labels.txt``, of the file itself, or of a configuration, in that order; the
    recipe likewise. Sizes that neither gives are the graph's.

    Args:
        graph: from `find`.
        labels: those of the settings; None: there are none.
        recipe: likewise.

    Raises:
        GraphError: the graph is damaged, is no classifier of images, has custom operators, or contradicts its recipe.
        BundleError: labels or recipe are missing or not valid; the message has an example.
    """
    facts = formats.read(graph.format, graph.path)
    refuse_custom(facts, graph.path)
    takes = image_input(facts, graph.path, channels_first=graph.format.channels_first)
    told = None if recipe else _told(graph)
    embedding = "" if told is None else beside.read_embedding(told)
    recipe = recipe or _recipe(graph, facts, takes)
    _check_size(graph, takes, recipe)
    found = labels or _labels(graph, facts)
    if found is None:
        raise BundleError(_without_labels(graph, facts))
    head = None if told is None else beside.read_head(told, len(found))
    if head is None:
        head = multi_label(len(found)) if any(map(configs.is_multi_label, _folders(graph))) else SOFTMAX
    return Details(labels=found, recipe=recipe, embedding=embedding, head=head)


def _folders(graph: GraphFile) -> tuple[Path, ...]:
    """Where labels, recipe and configurations may lie, in the order in which they are looked for."""
    own = graph.path.parent
    # Repositories of the Hugging Face Hub have the graph in a folder of its own, and what belongs to it above.
    above = (own.parent,) if own.name == _HUB else ()
    return tuple(dict.fromkeys((graph.folder, own, *above)))


def _labels(graph: GraphFile, facts: GraphFacts) -> tuple[ClassLabel, ...] | None:
    for folder in _folders(graph):
        if (path := beside.find(folder, "labels", beside.LABELS)) is not None:
            return read_labels(path)
    if facts.labels:
        return facts.labels
    return next((found for folder in _folders(graph) if (found := configs.labels(folder))), None)


def _told(graph: GraphFile) -> Path | None:
    """The recipe's file beside the graph; None: there is none."""
    for folder in _folders(graph):
        if (path := beside.find(folder, "recipe", beside.RECIPES)) is not None:
            return path
    return None


def _recipe(graph: GraphFile, facts: GraphFacts, takes: ImageInput) -> Recipe:
    if (path := _told(graph)) is not None:
        return beside.read_recipe(path)
    said: tuple[object, dict[str, Any]] | None = None
    if facts.recipe:
        said = graph.path, dict(facts.recipe)
    else:
        said = next(((folder, found) for folder in _folders(graph) if (found := configs.recipe(folder))), None)
    if said is None:
        raise BundleError(_without_recipe(graph, takes))
    where, values = said
    if takes.size is not None:
        values = {"height": takes.size[0], "width": takes.size[1], **values}
    try:
        return Recipe.from_dict(values)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"What {where} says of preprocessing cannot be used: {error} Write a recipe.toml beside the graph."
        ) from error


def _check_size(graph: GraphFile, takes: ImageInput, recipe: Recipe) -> None:
    shape = (takes.height, takes.width, takes.channels)
    if any(theirs not in {None, ours} for ours, theirs in zip(recipe.shape, shape, strict=True)):
        shown = "x".join("any" if side is None else str(side) for side in shape)
        raise GraphError(
            f"{graph.path} takes images of {shown} (height, width, channels), but the recipe produces "
            f"{'x'.join(map(str, recipe.shape))}. {change_for(recipe, shape)}"
        )


def _without_recipe(graph: GraphFile, takes: ImageInput) -> str:
    height, width = takes.size or (224, 224)
    example: dict[str, Any] = {"height": height, "width": width, **_EXAMPLE}
    if takes.channels == 1:
        example |= {"channels": "GRAY", "mean": [127.5], "std": [127.5]}
    size = "" if takes.size else " The graph takes images of any size; give the one that it was trained with."
    return (
        f"{graph.path} needs a recipe, which says how images are preprocessed: there is no "
        f"{' or '.join(beside.RECIPES)} in {graph.folder}, and neither the file nor a {configs.CONFIG} beside it says "
        "so. Preprocess as in training, or answers are worse without any error. Create "
        f"{graph.folder / beside.RECIPES[1]}, for example {json.dumps(example)}, or give the path of another file with "
        f"GLIMPSE_RECIPE.{size}"
    )


def _without_labels(graph: GraphFile, facts: GraphFacts) -> str:
    counts = {classes_of(output.shape) for output in facts.outputs} - {None}
    each = f"each of its {next(iter(counts))} classes" if len(counts) == 1 else "each class"
    return (
        f"{graph.path} needs its labels: there is no {beside.LABELS[0]} in {graph.folder}, and neither the file nor a "
        f"{configs.CONFIG} beside it names its classes. Create {graph.folder / beside.LABELS[0]} with one line for "
        f"{each}, in the order of the output, for example: cat. Or give the path of another file with GLIMPSE_LABELS."
    )
