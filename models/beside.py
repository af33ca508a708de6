"""Labels, recipes and calibrations that lie in the folder of a weights file or a graph.

The folder may come from an untrusted source, so a symbolic link in it that leads out of it is refused. A file that the
settings name may lie anywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse.models import messages
from glimpse.models.drift import Reference
from glimpse.models.errors import BundleError
from glimpse.models.files import bounded_files, whole_files
from glimpse.models.heads import Head, stated
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import EMBEDDING
from glimpse.models.prestem.recipe import Recipe

LABELS = ("labels.txt",)
RECIPES = ("recipe.toml", "recipe.json")
_WHICH = {
    "labels": ", one class per line in the order of the network's outputs",
    "recipe": ", which says how images were preprocessed in training, for example 'height = 224', 'width = 224', "
    "'mean = [123.675, 116.28, 103.53]' and 'std = [58.395, 57.12, 57.375]', a line each",
}
_OF_HEAD = ("head", "thresholds")
CALIBRATION = ".calibration.json"  # behind the whole name of the weights file


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `python -m glimpse.models calibrate` fits."""

    temperature: float = 1.0
    novelty: NoveltyThreshold | None = None
    drift: Reference | None = None


def find(folder: Path, what: str, names: tuple[str, ...]) -> Path | None:
    """The first of the files of these names in a folder; None where there is none.

    Args:
        folder: that of the weights.
        what: ``labels`` or ``recipe``, for messages; the setting of that name gives another file.
        names: of files.

    Raises:
        BundleError: there is one, and it is a link that leads out of the folder.
    """
    for name in names:
        if (folder / name).is_file():
            try:
                bounded_files.inside(folder, name)
            except ValueError as error:
                raise BundleError(
                    f"The {what} {folder / name} cannot be used: {error}, or give the path of the file with "
                    f"GLIMPSE_{what.upper()}."
                ) from error
            return folder / name
    return None


def needed(path: Path, what: str, names: tuple[str, ...]) -> Path:
    """The same, in the folder of a weights file that cannot be used without.

    Raises:
        BundleError: there is none, or it is a link that leads out of the folder.
    """
    found = find(path.parent, what, names)
    if found is None:
        raise BundleError(
            f"{path} needs its {what}{_WHICH[what]}: there is no {' or '.join(names)} in {path.parent}. Create one, or "
            f"give the path of another file with GLIMPSE_{what.upper()}."
        )
    return found


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file of TOML or JSON.

    Raises:
        BundleError: the file cannot be read, or a field is not valid.
    """
    return _read(path)[0]


def read_head(path: Path, classes: int) -> Head | None:
    """The head that a recipe's file states with ``head`` and ``thresholds``, for so many classes; None: it states none.

    Raises:
        BundleError: as `read_recipe`, or it does not fit so many classes.
    """
    values = _read(path)[2]
    try:
        return stated(values, classes) if values else None
    except ValueError as error:
        raise BundleError(f"The recipe {path} cannot be used: {messages.short(error)}") from error


def read_embedding(path: Path) -> str:
    """The output or node of a graph that a recipe's file names as its ``embedding``; empty: it names none.

    Raises:
        BundleError: as `read_recipe`.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Recipe, str, dict[str, Any]]:
    """The recipe, and what else its file says: the embedding, and the keys of the head."""
    try:
        text = bounded_files.read_text(path)
        values = bounded_files.parse_json(text) if path.suffix == ".json" else bounded_files.parse_toml(text)
        if not isinstance(values, dict):
            raise TypeError(f"it must be a JSON object. Received: {type(values).__name__}")  # noqa: TRY301 - one place says so
        named = values.get(EMBEDDING, "")
        if not isinstance(named, str):
            raise TypeError(f"{EMBEDDING} must be the name of an output or node. Received: {named!r}")  # noqa: TRY301 - the same
        head = {name: values[name] for name in _OF_HEAD if name in values}
        own = {name: value for name, value in values.items() if name != EMBEDDING and name not in head}
        return Recipe.from_dict(own), named, head
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"The recipe {path} cannot be used: {messages.short(error)}") from error


def recipe_of(path: Path) -> Recipe | None:
    """The recipe in the folder of a weights file; None where there is none.

    Raises:
        BundleError: there is one that cannot be used.
    """
    found = find(path.parent, "recipe", RECIPES)
    return None if found is None else read_recipe(found)


def calibration_path(weights: Path) -> Path:
    """Where the calibration of a weights file or a graph is: ``model.onnx.calibration.json``."""
    return weights.with_name(weights.name + CALIBRATION)


def calibration_of(weights: Path, digest: str, classes: int) -> Calibration:
    """The calibration beside a weights file or a graph; where there is none, that of uncalibrated weights.

    Args:
        weights: the file.
        digest: of the weights, which the calibration states.
        classes: of the model.

    Raises:
        BundleError: there is one that cannot be used, or that is of other weights.
    """
    path = calibration_path(weights)
    if find(path.parent, "calibration", (path.name,)) is None:
        return Calibration()
    try:
        values = bounded_files.parse_json(bounded_files.read_text(path, bounded_files.DESCRIPTION_BYTES))
        if not isinstance(values, dict):
            raise TypeError(f"it must be a JSON object. Received: {type(values).__name__}")  # noqa: TRY301 - one place says so
        stated = values["weights_digest"]
        temperature = float(values["temperature"])
        if not 0 < temperature < 1e6:
            raise ValueError(f"the temperature must be positive. Received: {temperature}")  # noqa: TRY301 - the same
        found = Calibration(
            temperature,
            NoveltyThreshold.from_dict(values["novelty"]) if "novelty" in values else None,
            Reference.from_dict(values["drift"], classes) if "drift" in values else None,
        )
    except KeyError as error:
        raise BundleError(f"The calibration {path} cannot be used: it lacks {error}. {_AGAIN}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"The calibration {path} cannot be used: {messages.short(error)}. {_AGAIN}") from error
    if stated != digest:
        raise BundleError(
            f"The calibration {path} is of other weights: it states {bounded_files.shown(stated)}, and those of "
            f"{weights.name} are {digest}. {_AGAIN}"
        )
    return found


_AGAIN = "Calibrate again with python -m glimpse.models calibrate, or remove the file."


def write_calibration(path: Path, found: Calibration, digest: str) -> None:
    """Write what `calibration_of` reads.

    Raises:
        OSError: it cannot be written.
    """
    values = {
        "weights_digest": digest,
        "temperature": found.temperature,
        **({} if found.novelty is None else {"novelty": found.novelty.to_dict()}),
        **({} if found.drift is None else {"drift": found.drift.to_dict()}),
    }
    whole_files.write_text(path, json.dumps(values, indent=2) + "\n")
