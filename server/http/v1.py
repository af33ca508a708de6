"""`/v1/models`: the REST protocol of TensorFlow Serving and of KServe's version 1, as far as photos need it.

TensorFlow Serving's RESTful API, the row format; KServe's data plane V1.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glimpse.server.domain import EncodedImage, ModelSelector
from glimpse.server.http import answers, json_body, options
from glimpse.server.http.endpoint import Asked
from glimpse.server.http.problems import JSON, malformed
from glimpse.server.service import Service


def selector(request: Request) -> ModelSelector:
    """The model that a path names."""
    found = request.path_params
    return ModelSelector(found.get("model", ""), found.get("version", ""))


class V1:
    """Its answers."""

    names = options.names("instances", "parameters.")

    def __init__(self, service: Service) -> None:
        """Have `service` classify."""
        self._service = service

    async def live(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        """Whether the process is of use: 200, or 503 where only another one can help."""
        alive = self._service.alive
        return Response(answers.json_bytes({"status": "alive" if alive else "dead"}), 200 if alive else 503, None, JSON)

    async def models(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        """The names of the models."""
        return answers.json_response({"models": sorted({each.name for each in self._service.models() if each.model})})

    async def model(self, asked: Asked) -> Response:
        """Whether a model answers: as KServe tells it, and as TensorFlow Serving does."""
        model = self._service.model(selector(asked.request))
        state = {"version": model.identity.version, "state": "AVAILABLE", "status": _OK}
        return answers.json_response({"name": model.identity.name, "ready": True, "model_version_status": [state]})

    async def predict(self, asked: Asked) -> Response:
        """Classify the photos in `instances`; one that cannot be classified fails the request."""
        content = json_body.parsed(asked.body)
        asked.body = b""
        parameters = json_body.mapping(json_body.given(content, "parameters", {}), "parameters")
        chosen = options.of_parameters(parameters, "parameters")
        instances = content.pop("instances", None)
        if not isinstance(instances, list):
            raise malformed('The body must be {"instances": [{"b64": "..."}]}.', field="instances")
        named = selector(asked.request)
        self._service.check_size(asked.call, named.name, len(instances))
        images = tuple(EncodedImage(_image(each, index)) for index, each in enumerate(instances))
        del instances, content
        answer = await self._service.classify(chosen.request(images, named), asked.call, asked.caller)
        for index, each in enumerate(answer.results):
            if each.error is not None:
                self._service.failed(answer, asked.call)
                raise each.error.of_request(f"instances[{index}]", index, len(answer.results))
        self._service.replied(answer, asked.call)
        head = {"request_id": answer.request_id} if answer.request_id else {}
        return await answers.with_results(head, "predictions", answer.results)


_OK = {"error_code": "OK", "error_message": ""}


def _image(instance: Any, index: int) -> bytes:
    """The bytes of one instance: `{"b64": ...}`, or that under the name of an input."""
    where = f"instances[{index}]"
    if isinstance(instance, dict) and len(instance) == 1:
        (inside,) = instance.values()
        if isinstance(inside, dict) and len(inside) == 1 and "b64" in inside:
            instance = inside
        if "b64" in instance:
            return json_body.image(instance["b64"], f"{where}.b64")
    raise malformed(f'{where} must be {{"b64": "..."}}, an image file in base64.', field=where)
