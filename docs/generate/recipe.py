"""The pre-stem recipe, from the class that it is read into."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docs.generate.markdown import code, table
from glimpse.models.prestem.recipe import Recipe

_COMMENT = re.compile(r"^    (\w+): .*?(?:  # (.*))?$", re.MULTILINE)

_ABOUT = """\
# Pre-stem recipe

The preprocessing of a model: a file `recipe.toml` or `recipe.json` beside a weights file, or the file that
`GLIMPSE_RECIPE` names. Only `height` and `width` are required. [Serve a weights file](../how-to/weights-file.md) has an
example.
"""


def page() -> str:
    """Its fields, and what the geometries do."""
    kinds = get_type_hints(Recipe)
    comments = dict(_COMMENT.findall(inspect.getsource(Recipe)))
    return "\n".join(
        [
            _ABOUT,
            table(
                ("field", "type", "default", "meaning"),
                [
                    [
                        code(field.name),
                        _type(kinds[field.name]),
                        "" if field.default in {MISSING, ()} else code(_toml(field.default)),
                        comments.get(field.name, ""),
                    ]
                    for field in fields(Recipe)
                ],
            ),
            "## What the fields do\n",
            inspect.cleandoc(Recipe.__doc__ or "") + "\n",
        ]
    )


def _type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(code(_toml(value)) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of: {_type(get_args(kind)[0])}"
    return {int: "whole number", float: "number", bool: "true or false"}[kind]


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return str(value)
