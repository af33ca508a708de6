"""What a request may ask for besides its images: the same options as over gRPC, from parameters or from a query."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.domain import ClassChoice, ClassifyRequest, Explain, Image, ModelSelector
from glimpse.server.errors import shown
from glimpse.server.fields import Field, Names
from glimpse.server.http import json_body
from glimpse.server.http.problems import malformed

_BY_FIELD = {
    Field.TOP_K: "top_k",
    Field.MIN_PROBABILITY: "min_probability",
    Field.GEOMETRY: "geometry",
    Field.OUTPUTS: "outputs",
    Field.ALLOW: "allow",
    Field.DENY: "deny",
    Field.ROLL_UP: "roll_up",
    Field.NOVELTY: "novelty",
    Field.REQUIRE_KNOWN: "require_known",
    Field.EXPLAIN: "explain",
    Field.EXPLAIN_CLASS: "explain_class",
}
NAMES = tuple(_BY_FIELD.values())
SELECTOR: Final[Names] = {Field.MODEL: "model", Field.VERSION: "version"}  # in a query as in a path

# As many as a message of gRPC has room for, see `server.grpc.message_fields`: each is looked up on the event loop.
_MOST_NAMES = 4096
_LONGEST_NUMBER = 20  # characters
_BOOLEANS = {None: None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Options:
    """As `ClassifyOptions` has them."""

    top_k: int | None = None
    min_probability: float = 0.0
    geometry: str = ""
    outputs: frozenset[str] = DEFAULT_OUTPUTS
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    roll_up: float = 0.0
    novelty: bool | None = None
    require_known: bool = False
    explain: str = ""
    explain_class: str = ""

    def request(self, images: tuple[Image, ...], model: ModelSelector) -> ClassifyRequest:
        """The request for these images."""
        return ClassifyRequest(
            images,
            model,
            self.top_k,
            self.min_probability,
            self.geometry,
            self.outputs,
            classes=ClassChoice(self.allow, self.deny) if self.allow or self.deny else None,
            roll_up=self.roll_up,
            novelty=self.novelty,
            require_known=self.require_known,
            explain=Explain(self.explain, self.explain_class) if self.explain else None,
        )


def names(images: str, within: str = "") -> Names:
    """What callers call the fields that errors are about: the images are `images`, the options in `within`."""
    return {**SELECTOR, Field.IMAGES: images, **{field: within + name for field, name in _BY_FIELD.items()}}


def check_known(given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a parameter that nobody reads: it may be a known one that is misspelt.

    Raises:
        InvalidRequestError: expected; one is not known.
    """
    for name in given:
        if name not in known:
            raise malformed(f"There is no parameter {shown(name)}. Known: {', '.join(known)}.", field=name[:80])


def of_parameters(parameters: Mapping[str, Any], where: str) -> Options:
    """The options in the `parameters` of a JSON request; others there are for others, and passed over.

    Raises:
        InvalidRequestError: expected; one has a wrong type.
    """
    top_k, least, geometry, roll_up, novelty, require_known = (
        parameters.get(name) for name in ("top_k", "min_probability", "geometry", "roll_up", "novelty", "require_known")
    )
    outputs, allow, deny = (
        [] if (given := parameters.get(name)) is None else _names(given, f"{where}.{name}")
        for name in ("outputs", "allow", "deny")
    )
    return Options(
        None if top_k is None else json_body.integer(top_k, f"{where}.top_k"),
        0.0 if least is None else json_body.number(least, f"{where}.min_probability"),
        "" if geometry is None else json_body.string(geometry, f"{where}.geometry"),
        DEFAULT_OUTPUTS.union(outputs),
        tuple(allow),
        tuple(deny),
        0.0 if roll_up is None else json_body.number(roll_up, f"{where}.roll_up"),
        None if novelty is None else json_body.boolean(novelty, f"{where}.novelty"),
        require_known is not None and json_body.boolean(require_known, f"{where}.require_known"),
        *(
            "" if (given := parameters.get(name)) is None else json_body.string(given, f"{where}.{name}")
            for name in ("explain", "explain_class")
        ),
    )


def of_texts(texts: Mapping[str, str]) -> Options:
    """The options in a query or a form.

    Raises:
        InvalidRequestError: expected; one is no number, neither true nor false, or has too many names.
    """
    return Options(
        _whole(texts, "top_k"),
        _number(texts, "min_probability"),
        texts.get("geometry", ""),
        DEFAULT_OUTPUTS.union(_listed(texts, "outputs")),
        _listed(texts, "allow"),
        _listed(texts, "deny"),
        _number(texts, "roll_up"),
        _boolean(texts, "novelty"),
        _boolean(texts, "require_known") or False,
        texts.get("explain", ""),
        texts.get("explain_class", ""),
    )


def _names(value: object, field: str) -> list[str]:
    if isinstance(value, list):
        _check_number(len(value), field)
    return json_body.strings(value, field)


def _check_number(names: int, field: str) -> None:
    if names > _MOST_NAMES:
        raise malformed(f"{field} may have at most {_MOST_NAMES:,} names. Received: {names:,}.", field=field)


def _whole(texts: Mapping[str, str], name: str) -> int | None:
    found = texts.get(name)
    if found is None:
        return None
    with contextlib.suppress(ValueError):
        if len(found) <= _LONGEST_NUMBER:
            return int(found)
    raise malformed(f"{name} must be a whole number. Received: {shown(found)}.", field=name)


def _number(texts: Mapping[str, str], name: str) -> float:
    found = texts.get(name, "0")
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(found)):
            return value
    raise malformed(f"{name} must be a finite number. Received: {shown(found)}.", field=name)


def _boolean(texts: Mapping[str, str], name: str) -> bool | None:
    found = texts.get(name)
    if found not in _BOOLEANS:
        raise malformed(f"{name} must be true or false. Received: {shown(str(found))}.", field=name)
    return _BOOLEANS[found]


def _listed(texts: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The names in a text with commas between them."""
    text = texts.get(name, "")
    _check_number(text.count(",") + 1, name)
    return tuple(filter(None, map(str.strip, text.split(","))))
