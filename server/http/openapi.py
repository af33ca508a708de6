"""The OpenAPI document of the HTTP port: what each path takes and answers, for generators of clients."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from glimpse import __version__
from glimpse.server.http.endpoint import TIMEOUT_KEY

_TEXT, _WHOLE, _NUMBER, _YES = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
_ANSWER = {"type": "string", "description": "Names this answer in /feedback; only if that is answered."}
_FILE = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_OUTCOMES = ["first", "among_five", "other", "unknown_request", "unknown_class", "repeated"]
_STAGES = ("receive", "admission", "decode_wait", "decode", "pre_stem", "queue", "compute", "reply")
_REFUSALS = {
    "400": "The request, or its only photo, is invalid.",
    "401": "A token is missing or unknown.",
    "403": "The caller may not do that.",
    "404": "There is no such model.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "429": "The server or the caller's share is full, or the caller's rate is exceeded. See Retry-After.",
    "500": "A defect of the server.",
    "503": "The server is loading, draining or stuck.",
    "504": "The deadline passed.",
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return made | {"required": list(required)} if required else made


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _of(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_TIMING = {"type": "object", "properties": {**{f"{stage}_seconds": _NUMBER for stage in _STAGES}, "batch_size": _WHOLE}}
_SCHEMAS: dict[str, Any] = {
    "Prediction": _object(
        ("index", "label", "probability"),
        index=_WHOLE,
        label=_TEXT,
        class_id=_TEXT,
        probability=_NUMBER,
        is_group=_YES,
        over_threshold=_YES,
    ),
    "Result": _object(
        ("predictions", "timing"),
        predictions=_array(_of("Prediction")),
        timing=_TIMING,
        logits=_array(_NUMBER),
        embedding=_array(_NUMBER),
        probability_outside=_NUMBER,
        error=_object(code=_WHOLE, reason=_TEXT, message=_TEXT),
        novelty=_object(("score", "threshold", "known"), score=_NUMBER, threshold=_NUMBER, known=_YES),
        explanation=_of("Explanation"),
    ),
    "Explanation": _object(
        ("index", "label", "method", "rows", "columns", "values", "lowest", "highest", "area"),
        index=_WHOLE,
        label=_TEXT,
        class_id=_TEXT,
        method=_TEXT,
        rows=_WHOLE,
        columns=_WHOLE,
        values={
            "type": "array",
            "items": _array(_WHOLE),
            "description": "A list for each row: 0 stands for lowest, 255 for highest.",
        },
        lowest=_NUMBER,
        highest=_NUMBER,
        area=_object(("left", "top", "right", "bottom"), left=_NUMBER, top=_NUMBER, right=_NUMBER, bottom=_NUMBER),
    ),
    "Classification": _object(
        ("model", "results"),
        model=_object(name=_TEXT, version=_TEXT, weights_digest=_TEXT),
        results=_array(_of("Result")),
        request_id=_ANSWER,
    ),
    "FeedbackRequest": _object(
        ("images",),
        images=_array(
            _object(("request_id", "true_class"), request_id=_TEXT, image=_WHOLE, true_class=_TEXT, new_class=_YES)
        ),
    ),
    "Feedback": _object(
        ("results",), results=_array(_object(("outcome", "sampled"), outcome={"enum": _OUTCOMES}, sampled=_YES))
    ),
    "Problem": _object(
        ("error", "reason", "code"),
        error={"type": "string", "description": "For people: what was wrong, what was received, what to do."},
        reason={"type": "string", "description": "For programs, as in the ErrorInfo of gRPC: NOT_AN_IMAGE."},
        code={"type": "string", "description": "Name of the gRPC status: INVALID_ARGUMENT."},
        field=_TEXT,
        retry_after_seconds=_NUMBER,
    ),
    "Options": _object(
        top_k=_WHOLE,
        min_probability=_NUMBER,
        geometry=_TEXT,
        outputs=_array(_TEXT),
        allow=_array(_TEXT),
        deny=_array(_TEXT),
        roll_up=_NUMBER,
        novelty=_YES,
        require_known=_YES,
        explain=_TEXT,
        explain_class=_TEXT,
    ),
    "PredictRequest": _object(
        ("instances",), instances=_array(_object(("b64",), b64=_BASE64)), parameters=_of("Options")
    ),
    "Tensor": _object(
        ("name", "datatype", "shape"),
        name=_TEXT,
        datatype=_TEXT,
        shape=_array(_WHOLE),
        parameters=_object(binary_data_size=_WHOLE),
        data={"type": "array", "items": {}},
    ),
    "InferRequest": _object(
        ("inputs",),
        id=_TEXT,
        inputs=_array(_of("Tensor")),
        outputs=_array(_object(("name",), name=_TEXT, parameters=_object(classification=_WHOLE, binary_data=_YES))),
        parameters=_object(binary_data_output=_YES, timeout=_WHOLE, geometry=_TEXT),
    ),
    "InferResponse": _object(
        ("model_name", "outputs"),
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        parameters=_object(request_id=_ANSWER),
        outputs=_array(_of("Tensor")),
    ),
}
_QUERY = [
    {"name": name, "in": "query", "schema": schema}
    for name, schema in (
        ("model", _TEXT),
        ("version", _TEXT),
        ("top_k", _WHOLE),
        ("min_probability", _NUMBER),
        ("geometry", _TEXT),
        ("outputs", {"type": "string", "description": "logits, embedding, or both with a comma between them."}),
        ("allow", {"type": "string", "description": "Classes that may answer, with commas between them."}),
        ("deny", {"type": "string", "description": "Classes that may not."}),
        ("roll_up", _NUMBER),
        ("novelty", _YES),
        ("require_known", _YES),
        (
            "explain",
            {
                "type": "string",
                "description": "auto, cam or occlusion: where in the photo the score of a class comes from.",
            },
        ),
        ("explain_class", {"type": "string", "description": "The class to explain; without it, the first label's."}),
    )
]
_MODEL = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
_VERSION = _MODEL | {"name": "version"}
_TIMEOUT = {
    "name": TIMEOUT_KEY,
    "in": "header",
    "schema": _NUMBER,
    "description": "Seconds after which the answer is of no use.",
}


def _answers(schema: Any, *refusals: str) -> dict[str, Any]:
    refused = {each: {"description": _REFUSALS[each], "content": _json(_of("Problem"))} for each in refusals}
    return {"200": {"description": "OK", "content": _json(schema)}, **refused}


def _get(summary: str, schema: Any, *refusals: str, parameters: Any = ()) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": _answers(schema, *refusals)}}


def _post(summary: str, content: Any, schema: Any, parameters: Any = ()) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "parameters": [*parameters, _TIMEOUT],
            "requestBody": {"required": True, "content": content},
            "responses": _answers(schema, *_REFUSALS),
        }
    }


def document(*, tokens: bool, served: Collection[str]) -> dict[str, Any]:
    """The document; `tokens`: whether the server asks for one, `served`: the paths that it answers."""
    photos = {
        "image/*": {"schema": _FILE},
        "multipart/form-data": {"schema": _object(("image",), image=_array(_FILE), top_k=_WHOLE, model=_TEXT)},
    }
    named = _object(name=_TEXT, ready=_YES)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Glimpse",
            "version": __version__,
            "summary": "Photos in, ranked and calibrated labels out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/classify": _post(
                "Classify a photo that is the body, or the photos of a form.", photos, _of("Classification"), _QUERY
            ),
            "/describe": _get(
                "A model's classes, network, preprocessing, runtime and limits.",
                {"type": "object"},
                "401",
                "404",
                "503",
                parameters=_QUERY[:2],
            ),
            "/feedback": _post(
                "Tell what images that were answered really show.", _json(_of("FeedbackRequest")), _of("Feedback")
            ),
            "/v1/models": _get("The names of the models.", _object(models=_array(_TEXT)), "401"),
            "/v1/models/{model}": _get("Whether a model answers.", named, "401", "404", "503", parameters=[_MODEL]),
            "/v1/models/{model}:predict": _post(
                "Classify photos in base64, as TensorFlow Serving and KServe's version 1 have it.",
                _json(_of("PredictRequest")),
                _object(predictions=_array(_of("Result")), request_id=_ANSWER),
                [_MODEL],
            ),
            "/v2": _get("What the server is.", _object(name=_TEXT, version=_TEXT, extensions=_array(_TEXT)), "401"),
            "/v2/health/live": _get("Whether the process is of use.", _object(live=_YES), "503"),
            "/v2/health/ready": _get("Whether requests are answered.", _object(ready=_YES), "503"),
            "/v2/models/stats": _get(
                "What all models have done since the server began.",
                _object(model_stats=_array({"type": "object"})),
                "401",
            ),
            "/v2/models/{model}": _get(
                "Inputs and outputs of a model.",
                _object(
                    name=_TEXT,
                    versions=_array(_TEXT),
                    platform=_TEXT,
                    inputs=_array(_of("Tensor")),
                    outputs=_array(_of("Tensor")),
                ),
                "401",
                "404",
                "503",
                parameters=[_MODEL],
            ),
            "/v2/models/{model}/ready": _get(
                "Whether a model answers.", named, "401", "404", "503", parameters=[_MODEL]
            ),
            "/v2/models/{model}/config": _get(
                "The configuration of a model as Triton would have it.",
                {"type": "object"},
                "401",
                "404",
                "503",
                parameters=[_MODEL],
            ),
            "/v2/models/{model}/stats": _get(
                "What a model has done since the server began: counts, and durations in nanoseconds.",
                _object(model_stats=_array({"type": "object"})),
                "401",
                "404",
                "503",
                parameters=[_MODEL],
            ),
            "/v2/models/{model}/infer": _post(
                "Classify by the Open Inference Protocol: NAME takes files as BYTES, NAME.pixels pixels as UINT8.",
                {**_json(_of("InferRequest")), "application/octet-stream": {"schema": _FILE}},
                _of("InferResponse"),
                [_MODEL],
            ),
        },
        "components": {"schemas": _SCHEMAS},
    }
    for path, answered in tuple(made["paths"].items()):
        if "{model}" in path:
            made["paths"][path.replace("{model}", "{model}/versions/{version}")] = {
                verb: each | {"parameters": [*each["parameters"], _VERSION]} for verb, each in answered.items()
            }
    for path in tuple(made["paths"]):
        if path not in served:
            del made["paths"][path]
    if tokens:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made
