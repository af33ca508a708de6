"""From the service's answers to JSON: the messages of `glimpse.v1`, field by field, with their names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from starlette.responses import Response

from glimpse.server.domain import Classification, Explanation, ImageResult, ModelIdentity
from glimpse.server.http.problems import JSON

AT_ONCE: Final = 8192  # numbers that are written without giving the event loop away: some 5 ms
_PREDICTION = 5  # numbers that take as long as one prediction, which has five values with their names


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A response in JSON.

    A float32 is written with the digits of the float64 that equals it, so that whoever reads it gets the same bits.
    """
    return Response(json_bytes(content), 200, headers, JSON)


def json_bytes(content: object) -> bytes:
    """JSON, as short as it can be."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


async def classification(answer: Classification) -> Response:
    """A `ClassifyResponse`."""
    head = {"model": identity(answer.model), **({"request_id": answer.request_id} if answer.request_id else {})}
    return await with_results(head, "results", answer.results)


async def with_results(head: Mapping[str, object], name: str, results: Sequence[ImageResult]) -> Response:
    """A response that has `head` and, under `name` behind it, the results.

    Writing many embeddings or maps, or all classes of many photos, takes longer than others should wait for the event
    loop, so that it is given away after each result. A thread would not help: Python's lock is held while a result is
    written.
    """
    numbers = sum(values.size for each in results for values in each.outputs.values())
    numbers += _PREDICTION * sum(len(each.predictions) for each in results)
    numbers += sum(each.explanation.values.size for each in results if each.explanation is not None)
    if numbers <= AT_ONCE:
        return json_response({**head, name: [result(each) for each in results]})
    told: list[bytes] = []
    for each in results:
        told.append(json_bytes(result(each)))
        await asyncio.sleep(0)
    before = json_bytes({**head, name: []})
    return Response(b"".join([before[:-2], b",".join(told), before[-2:]]), 200, None, JSON)


async def array(values: NDArray[np.floating] | Sequence[str]) -> bytes:
    """Numbers, or texts, as an array of JSON, `AT_ONCE` of them at a time; in between, others have the loop.

    Args:
        values: one-dimensional.
    """
    told = list[bytes]()
    for start in range(0, len(values), AT_ONCE):
        if start:
            await asyncio.sleep(0)
        part = values[start : start + AT_ONCE]
        told.append(json_bytes(part.tolist() if isinstance(part, np.ndarray) else part)[1:-1])
    return b"[" + b",".join(told) + b"]"


def identity(model: ModelIdentity) -> dict[str, Any]:
    """A `ModelIdentity`."""
    return {"name": model.name, "version": model.version, "weights_digest": model.weights_digest}


def result(each: ImageResult) -> dict[str, Any]:
    """An `ImageResult`; `error` is there only where the image could not be classified."""
    timing = each.timing
    told: dict[str, Any] = {
        "predictions": [
            {"index": p.index, "label": p.label, "class_id": p.class_id, "probability": p.probability}
            | ({"is_group": True} if p.is_group else {})
            | ({} if p.over_threshold is None else {"over_threshold": p.over_threshold})
            for p in each.predictions
        ],
        "timing": {
            "receive_seconds": timing.receive,
            "admission_seconds": timing.admission,
            "decode_wait_seconds": timing.decode_wait,
            "decode_seconds": timing.decode,
            "pre_stem_seconds": timing.pre_stem,
            "queue_seconds": timing.queue,
            "compute_seconds": timing.compute,
            "reply_seconds": timing.reply,
            "batch_size": timing.batch_size,
        },
    }
    if (novelty := each.novelty) is not None:
        told["novelty"] = {"score": novelty.score, "threshold": novelty.threshold, "known": novelty.known}
    if (found := each.explanation) is not None:
        told["explanation"] = explanation(found)
    # By the names of their fields in the contract.
    told |= {name: values.tolist() for name, values in each.outputs.items()}
    if each.outside is not None:
        told["probability_outside"] = each.outside
    if (error := each.error) is not None:
        told["error"] = {"code": int(error.code), "reason": error.reason.value, "message": error.message}
    return told


def explanation(found: Explanation) -> dict[str, Any]:
    """An `Explanation`, whose values are a list for each row."""
    return {
        "index": found.index,
        "label": found.label.label,
        "class_id": found.label.class_id,
        "method": found.method,
        "rows": found.values.shape[0],
        "columns": found.values.shape[1],
        "values": found.values.tolist(),
        "lowest": found.lowest,
        "highest": found.highest,
        "area": found.area._asdict(),
    }


def message(content: Message) -> dict[str, Any]:
    """A protobuf message, with all its fields, by the names of the contract.

    64-bit numbers stay numbers, and the values of enumerations are their names.
    """
    told: dict[str, Any] = {}
    for field in content.DESCRIPTOR.fields:
        value = getattr(content, field.name)
        kind = field.message_type
        if field.enum_type is not None:
            names = field.enum_type.values_by_number
            told[field.name] = [names[each].name for each in value] if field.is_repeated else names[value].name
        elif kind is None:
            told[field.name] = list(value) if field.is_repeated else value
        elif kind.GetOptions().map_entry:
            told[field.name] = dict(value)
        elif field.is_repeated:
            told[field.name] = [message(each) for each in value]
        elif content.HasField(field.name):
            told[field.name] = message(value)
    return told
