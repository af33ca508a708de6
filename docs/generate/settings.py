"""The settings of the server, from the fields that it reads."""

from __future__ import annotations

import json
from typing import Any

from docs.generate.markdown import anchor, code, table
from glimpse.server.settings import Settings
from glimpse.server.settings.groups import GROUPS, VARIABLES

_MIB = 1024 * 1024
_HEADER = ("variable, flag", "type", "default", "meaning")
_UNBOUNDED = 2**31 - 1

_ABOUT = """\
# Settings

A setting can be given as a flag, as a `GLIMPSE_*` environment variable, or in the TOML file that `--config` or
`GLIMPSE_CONFIG` names. Flags take precedence over variables, variables over the file, and the file over the defaults.
In the file, a setting has its name in lower case and without the prefix: `max_batch_size = 8`. All settings are
validated and logged at the start. An invalid value ends the server with [exit code 2](exit-codes.md); a `GLIMPSE_*`
variable that is not a setting causes a warning. The variables that the client reads are on the page [command
line](command-line.md).
"""

_CACHE = """\
The folder that `GLIMPSE_CACHE` names has four kinds of content, all of which can be made again: downloaded weights
(without the variable, in `~/.cache/glimpse/weights`), models as OpenVINO, JAX and PyTorch read them in the folder
`networks`, programs that JAX has compiled in the folder `jax`, and measurements: in the folder `agreement` the
comparisons of reduced precision with float32, in `streams` and `batch_sizes` which batches are computed fastest. The
second start of a server with one of these three runtimes takes its model from there and needs neither TensorFlow nor
Keras;
`python -m glimpse.server prepare`, with the same settings, prepares the first start.
"""


def page() -> str:
    """Every setting, by what it is about."""
    parts = [_ABOUT]
    for title, names in GROUPS.items():
        parts += [f"## {title}\n", rows(*names)]
    variables = [[code(name), text] for name, text in VARIABLES.items()]
    parts += ["## Environment variables without a flag\n", table(("variable", "meaning"), variables), _CACHE]
    return "\n".join(parts)


def rows(*names: str) -> str:
    """A table of these settings, with the anchors that links point to."""
    return table(
        _HEADER, [[anchor(name) + cells[0], *cells[1:]] for name, cells in zip(names, _all(names), strict=True)]
    )


def excerpt(*names: str) -> str:
    """The same on another page, where each links to its place in the reference. Without anchors of its own."""
    return table(_HEADER, _all(names))


def _all(names: tuple[str, ...]) -> list[list[str]]:
    properties = Settings.model_json_schema()["properties"]
    return [_cells(name, properties[name]) for name in names]


def _cells(name: str, schema: dict[str, Any]) -> list[str]:
    flag = name.replace("_", "-")
    if schema.get("type") == "boolean":
        flag = f"[no-]{flag}"
    called = f"`GLIMPSE_{name.upper()}`<br>`--{flag}`"
    return [called, _type(schema), _default(schema.get("default")), schema.get("description", "")]


def _type(schema: dict[str, Any]) -> str:
    """What a value may be, from its JSON schema."""
    if "anyOf" in schema:  # the other one is null
        return _type(next(each for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    kind = str(schema.get("type", ""))
    if kind == "array":
        return f"any of {_type(schema['items'])}, with commas between"
    if schema.get("format") == "path":
        return "path"
    if schema.get("format") == "ipvanynetwork":
        return "address or network"
    word = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}.get(
        kind, "JSON"
    )
    return word + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    highest = schema.get("maximum", _UNBOUNDED)
    parts = []
    if "minimum" in schema:
        parts.append(f"at least {schema['minimum']:g}")
    if "exclusiveMinimum" in schema:
        parts.append(f"above {schema['exclusiveMinimum']:g}")
    if highest < _UNBOUNDED and "minimum" in schema:
        return f", {schema['minimum']:g} to {highest:,}"
    if highest < _UNBOUNDED:
        parts.append(f"at most {highest:,}")
    return "".join(f", {part}" for part in parts)


def _default(value: Any) -> str:
    match value:
        case None | "" | []:
            return "none"
        case bool():
            return code(str(value).lower())
        case int() if value >= _MIB and value % _MIB == 0:
            return f"{code(value)} ({value // _MIB} MiB)"
        case dict():
            return code(json.dumps(value))
        case float():
            return code(f"{value:g}")
        case _:
            return code(value)
