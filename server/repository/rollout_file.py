"""`rollout.toml`: which versions of a model get a part of its requests, or copies of them.

It lies in the folder of the model beside `aliases.toml`, so that it outlives the server, and so that all servers with
this repository agree on it:

    previous = 1            # the version that was stable before, where a roll-back leads to

    [canary]                # and [shadow], which has the same keys but for max_error_rate
    version = 2
    share = 0.1
    max_error_rate = 0.02
    min_agreement = 0.9
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from glimpse.models.files import bounded_files
from glimpse.server.repository import aliases
from glimpse.server.repository.model_file import explain
from glimpse.server.repository.rollout import MIN_REQUESTS, WINDOW_SECONDS, Kind, Terms

FILE = "rollout.toml"
_LONGEST = 500  # characters of a reason, which has to fit into a line

_Version = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Rollout(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    version: _Version
    share: _Share
    max_error_rate: _Share | None = None
    min_agreement: _Share | None = None
    min_requests: Annotated[int, Field(ge=1)] = MIN_REQUESTS
    window_seconds: Annotated[float, Field(ge=1, le=86_400)] = WINDOW_SECONDS
    rolled_back: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    previous: _Version | None = None
    canary: _Rollout | None = None
    shadow: _Rollout | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file of one model says."""

    rollouts: Mapping[Kind, Terms] = field(default_factory=dict)
    previous: str = ""  # the version that was stable before; empty: it is not known


def read(folder: Path) -> Kept:
    """What the file in the folder of a model says; nothing where there is none.

    Raises:
        ValueError: the file cannot be used; the message says why.
    """
    path = folder / FILE
    try:
        if not path.exists():
            return Kept()
        found = _File.model_validate(bounded_files.parse_toml(bounded_files.read_text(path)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {explain(error, _File)}.") from error
    terms = {
        kind: Terms(**{**each.model_dump(), "version": str(each.version)})
        for kind, each in ((Kind.CANARY, found.canary), (Kind.SHADOW, found.shadow))
        if each is not None
    }
    return Kept(terms, "" if found.previous is None else str(found.previous))


def write(folder: Path, kept: Kept) -> None:
    """Keep it in the folder of a model, in the place of what is there.

    Raises:
        OSError: the folder cannot be written.
    """
    lines = [f"previous = {kept.previous}"] if kept.previous else []
    for kind, terms in sorted(kept.rollouts.items()):
        lines += ["", f"[{kind}]", f"version = {terms.version}", f"share = {terms.share!r}"]
        limits = {"max_error_rate": terms.max_error_rate, "min_agreement": terms.min_agreement}
        lines += [f"{name} = {value!r}" for name, value in limits.items() if value is not None]
        lines += [f"min_requests = {terms.min_requests}", f"window_seconds = {terms.window_seconds!r}"]
        if terms.rolled_back:
            lines.append(f'rolled_back = "{_plain(terms.rolled_back)}"')
    aliases.put(folder / FILE, "\n".join(lines).strip() + "\n")


def _plain(text: str) -> str:
    """What may stand between quotation marks in TOML."""
    return "".join(each if each.isprintable() and each not in {'"', "\\"} else " " for each in text)[:_LONGEST]
