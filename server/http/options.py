"""What a request may ask for besides its images: the same options as over gRPC, from parameters or from a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.server.domain import ClassifyRequest, Image, ModelSelector
from glimpse.server.errors import shown
from glimpse.server.http import json_body
from glimpse.server.http.problems import malformed

NAMES = ("top_k", "min_probability", "geometry", "outputs")


@dataclass(frozen=True, slots=True)
class Options:
    """As `ClassifyOptions` has them."""

    top_k: int | None = None
    min_probability: float = 0.0
    geometry: str = ""
    outputs: frozenset[str] = DEFAULT_OUTPUTS

    def request(self, images: tuple[Image, ...], model: ModelSelector) -> ClassifyRequest:
        """The request for these images."""
        return ClassifyRequest(images, model, self.top_k, self.min_probability, self.geometry, self.outputs)


def of_parameters(parameters: Mapping[str, Any], where: str) -> Options:
    """The options in the `parameters` of a JSON request; others there are for others, and passed over.

    Raises:
        InvalidRequestError: expected; one has a wrong type.
    """
    top_k, least, geometry, outputs = (parameters.get(name) for name in NAMES)
    return Options(
        None if top_k is None else json_body.integer(top_k, f"{where}.top_k"),
        0.0 if least is None else json_body.number(least, f"{where}.min_probability"),
        "" if geometry is None else json_body.string(geometry, f"{where}.geometry"),
        _outputs([] if outputs is None else json_body.strings(outputs, f"{where}.outputs")),
    )


def of_texts(texts: Mapping[str, str]) -> Options:
    """The options in a query or a form.

    Raises:
        InvalidRequestError: expected; one is no number.
    """
    top_k, least = texts.get("top_k"), texts.get("min_probability")
    try:
        return Options(
            None if top_k is None else int(top_k[:20]),
            0.0 if least is None else json_body.number(float(least), "min_probability"),
            texts.get("geometry", ""),
            _outputs(texts.get("outputs", "").split(",")),
        )
    except ValueError:
        received = f"top_k={shown(str(top_k))}, min_probability={shown(str(least))}"
        raise malformed(f"top_k must be a whole number, min_probability a number. Received: {received}.") from None


def _outputs(named: Iterable[str]) -> frozenset[str]:
    """The predictions, and the outputs of these names."""
    return DEFAULT_OUTPUTS.union(filter(None, map(str.strip, named)))
