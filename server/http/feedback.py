"""`POST /feedback`: what images that were answered really show, answered as `Feedback` answers."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from glimpse.server.http import answers, json_body
from glimpse.server.http.body import Limit
from glimpse.server.http.endpoint import Asked
from glimpse.server.http.problems import malformed
from glimpse.server.labelling.feedback import TrueClass
from glimpse.server.messages import feedback
from glimpse.server.service import Service

LIMIT = Limit(16 << 10)
_KNOWN = ("request_id", "image", "true_class", "new_class")
_MOST_IMAGE = 1 << 20


class Feedback:
    """Its answers."""

    def __init__(self, service: Service) -> None:
        """Have `service` take it."""
        self._service = service

    async def __call__(self, asked: Asked) -> Response:
        """Take what came."""
        content = json_body.parsed(asked.body)
        images = json_body.objects(content.get("images"), "images")
        classes = [_true_class(each, f"images[{number}]") for number, each in enumerate(images)]
        told = await feedback.give(self._service, asked.call, classes)
        return answers.json_response(feedback.as_json(told))


def _true_class(content: dict[str, Any], where: str) -> TrueClass:
    """What is told of one image.

    Raises:
        InvalidRequestError: expected; it lacks something, or has what nobody reads.
    """
    for name in content:
        if name not in _KNOWN:
            raise json_body.unknown(name, where, ", ".join(_KNOWN))
    image = json_body.integer(json_body.given(content, "image", 0), f"{where}.image")
    if not 0 <= image < _MOST_IMAGE:
        raise malformed(f"{where}.image must be a number of an image, from 0.", field=f"{where}.image")
    return TrueClass(
        json_body.string(content.get("request_id"), f"{where}.request_id"),
        image,
        json_body.string(content.get("true_class"), f"{where}.true_class"),
        json_body.boolean(json_body.given(content, "new_class", default=False), f"{where}.new_class"),
    )
