"""The settings of the server, from the fields that it reads."""

from __future__ import annotations

import json
from typing import Any

from docs.generate.markdown import anchor, code, table
from glimpse.server.settings import Settings

_MIB = 1024 * 1024
_HEADER = ("variable, flag", "type", "default", "")
_UNBOUNDED = 2**31 - 1

# Each field once; a test says which is missing. What is not named here comes last, under "Others".
GROUPS: dict[str, tuple[str, ...]] = {
    "What is served": ("model", "variant", "options", "weights", "labels", "recipe", "golden"),
    "What computes": ("runtime", "precision", "conversion_seconds", "max_batch_size", "stuck_seconds"),
    "Where it listens": ("host", "port", "metrics_port", "health_port"),
    "What it answers besides": ("serve_health", "serve_reflection", "serve_metrics"),
    "Who may come in": (
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "tokens",
        "reload_seconds",
        "audit_log",
        "trusted_proxies",
    ),
    "How much one caller may ask": ("rate_limit", "rate_burst"),
    "How much is worked on at once": (
        "max_images_in_flight",
        "max_bytes_in_flight",
        "max_pixels_in_flight",
        "max_images_per_request",
        "max_message_bytes",
        "max_streams",
        "stream_window",
        "max_uploads",
        "max_receiving_bytes",
    ),
    "What one image may be": (
        "max_image_bytes",
        "max_image_pixels",
        "max_jpeg_pixels",
        "jpeg_reducing_gap",
        "allow_geometries",
    ),
    "How images are decoded": ("decode_threads", "decode_in", "decode_memory_bytes", "decode_seconds"),
    "Connections": (
        "max_connections",
        "max_connections_per_address",
        "flood_guard",
        "max_calls_per_connection",
        "max_metadata_bytes",
        "upload_seconds",
        "handshake_seconds",
        "keepalive_seconds",
        "keepalive_timeout_seconds",
        "min_ping_seconds",
        "max_connection_idle_seconds",
        "max_connection_age_seconds",
    ),
    "How it ends": ("drain_announce_seconds", "drain_seconds"),
    "What it reads and writes": ("config", "log_level", "log_format", "log_calls"),
}

_ABOUT = """\
# Settings

Flags come before `GLIMPSE_*` environment variables, these before the TOML file that `--config` or `GLIMPSE_CONFIG`
names, and that before the defaults. In the file a setting has its name in lower case, without the prefix:
`max_batch_size = 8`. All are checked once, at the start, and logged; a value that cannot be ends the server with
[exit code 2](exit-codes.md), and a variable that is no setting is warned about.

`GLIMPSE_CACHE` names a folder for what can be had again: published weights, else in `~/.cache/glimpse/weights`, and in
its folder `networks`, else in `~/.cache/glimpse/networks`, what has been converted for OpenVINO; beside that, in
`agreement`, how a reduced precision compares with float32. The second start of a server takes its network from there
and needs no TensorFlow; `python -m glimpse.server prepare`, with the same settings, makes it so for the first one.
Nobody but those who run the server should be able to write to the folder. Variables that the client reads are on the
[command line](command-line.md).
"""


def page() -> str:
    """Every setting, by what it is about."""
    fields = list(Settings.model_fields)
    grouped = [name for names in GROUPS.values() for name in names]
    others = tuple(name for name in fields if name not in grouped)
    parts = [
        _ABOUT,
    ]
    for title, names in {**GROUPS, "Others": others}.items():
        if names:
            parts += [f"## {title}\n", rows(*names)]
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
