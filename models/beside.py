"""Labels and recipes that lie in the folder of a weights file or a graph.

The folder may come from an untrusted source, so a symbolic link in it that leads out of it is refused. A file that the
settings name may lie anywhere.
"""

from __future__ import annotations

from pathlib import Path

from glimpse.models import bounded_files, messages
from glimpse.models.errors import BundleError
from glimpse.models.outputs import EMBEDDING
from glimpse.models.prestem.recipe import Recipe

LABELS = ("labels.txt",)
RECIPES = ("recipe.toml", "recipe.json")


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
            f"{path} needs its {what}: there is no {' or '.join(names)} in its folder. Create one, or give the path of "
            f"another file with GLIMPSE_{what.upper()}."
        )
    return found


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file of TOML or JSON.

    Raises:
        BundleError: the file cannot be read, or a field is not valid.
    """
    return _read(path)[0]


def read_embedding(path: Path) -> str:
    """The output or node of a graph that a recipe's file names as its ``embedding``; empty: it names none.

    Raises:
        BundleError: as `read_recipe`.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Recipe, str]:
    try:
        text = bounded_files.read_text(path)
        values = bounded_files.parse_json(text) if path.suffix == ".json" else bounded_files.parse_toml(text)
        if not isinstance(values, dict):
            raise TypeError(f"it must be a JSON object. Received: {type(values).__name__}")  # noqa: TRY301 - one place says so
        named = values.get(EMBEDDING, "")
        if not isinstance(named, str):
            raise TypeError(f"{EMBEDDING} must be the name of an output or node. Received: {named!r}")  # noqa: TRY301 - the same
        return Recipe.from_dict({name: value for name, value in values.items() if name != EMBEDDING}), named
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"The recipe {path} cannot be used: {messages.short(error)}") from error


def recipe_of(path: Path) -> Recipe | None:
    """The recipe in the folder of a weights file; None where there is none.

    Raises:
        BundleError: there is one that cannot be used.
    """
    found = find(path.parent, "recipe", RECIPES)
    return None if found is None else read_recipe(found)
