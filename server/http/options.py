"""What a request may ask for besides its images: the same options as over gRPC, from parameters or from a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.domain import ClassChoice, ClassifyRequest, Explain, Image, ModelSelector
from glimpse.server.errors import shown
from glimpse.server.http import json_body
from glimpse.server.http.problems import malformed

NAMES = (
    *("top_k", "min_probability", "geometry", "outputs", "allow", "deny", "roll_up"),
    *("novelty", "require_known", "explain", "explain_class"),
)

# As many as a message of gRPC has room for, see `server.grpc.message_fields`: each is looked up on the event loop.
_MOST_NAMES = 4096
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
        InvalidRequestError: expected; one is no number.
    """
    top_k, least, roll_up = (texts.get(name) for name in ("top_k", "min_probability", "roll_up"))
    try:
        return Options(
            None if top_k is None else int(top_k[:20]),
            0.0 if least is None else json_body.number(float(least), "min_probability"),
            texts.get("geometry", ""),
            DEFAULT_OUTPUTS.union(_listed(texts, "outputs")),
            _listed(texts, "allow"),
            _listed(texts, "deny"),
            0.0 if roll_up is None else json_body.number(float(roll_up), "roll_up"),
            _boolean(texts, "novelty"),
            _boolean(texts, "require_known") or False,
            texts.get("explain", ""),
            texts.get("explain_class", ""),
        )
    except ValueError:
        received = f"top_k={shown(str(top_k))}, min_probability={shown(str(least))}, roll_up={shown(str(roll_up))}"
        raise malformed(
            f"top_k must be a whole number, min_probability and roll_up numbers. Received: {received}."
        ) from None


def _names(value: object, field: str) -> list[str]:
    if isinstance(value, list):
        _check_number(len(value), field)
    return json_body.strings(value, field)


def _check_number(names: int, field: str) -> None:
    if names > _MOST_NAMES:
        raise malformed(f"{field} may have at most {_MOST_NAMES:,} names. Received: {names:,}.", field=field)


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
