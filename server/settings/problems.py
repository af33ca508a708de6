"""Explains what is wrong with settings: what was received, and what was most likely meant."""

from __future__ import annotations

import re

import pydantic
from pydantic_settings import SettingsError

from glimpse.models.suggestions import nearest
from glimpse.server.settings import Settings

_FLAG_ERROR = "error parsing CLI: "
_UNKNOWN_FLAGS = "unrecognized arguments: "


def explain(error: Exception) -> list[str]:
    """One line for each problem.

    Args:
        error: what `settings.load` raised.
    """
    if isinstance(error, pydantic.ValidationError):
        return [
            _problem(problem["loc"], problem["type"], problem["msg"], problem["input"]) for problem in error.errors()
        ]
    if isinstance(error, SettingsError):
        return [_settings_error(error)]
    return [str(error)]


def _problem(place: tuple[int | str, ...], kind: str, message: str, received: object) -> str:
    name = ".".join(str(part) for part in place)
    if kind == "extra_forbidden":
        # A file may write names as flags or variables do.
        word = name.lower().replace("-", "_").removeprefix("glimpse_")
        return f"{name} is not a setting.{nearest(word, Settings.model_fields)} Received: {received!r}"
    what = message.removeprefix("Value error, ")
    if not name:
        return what
    return f"{name}: {what}" if kind == "value_error" else f"{name}: {what}. Received: {received!r}"


def _settings_error(error: SettingsError) -> str:
    text = str(error)
    if not text.startswith(_FLAG_ERROR):
        # Of a value in a form of its own; the cause says what is wrong with it.
        found = re.search(r'field "(\w+)"|encountered for (\w+)', text)
        name = next((each for each in found.groups() if each), "") if found else ""
        return f"{name}: {error.__cause__ or text}" if name else text
    text = text.removeprefix(_FLAG_ERROR)
    if not text.startswith(_UNKNOWN_FLAGS):
        return f"{text}."
    words = text.removeprefix(_UNKNOWN_FLAGS).split()
    if words[0] == "prepare":
        return "prepare must come before all flags: python -m glimpse.server prepare [flags]"
    flag = words[0].partition("=")[0]
    return f"{flag} is not a setting.{nearest(flag, _flags())} `python -m glimpse.server --help` lists all settings."


def _flags() -> list[str]:
    flags = []
    for name, field in Settings.model_fields.items():
        flags.append(f"--{name.replace('_', '-')}")
        if field.annotation is bool:
            flags.append(f"--no-{name.replace('_', '-')}")
    return flags
