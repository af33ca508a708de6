"""KServe's own Python clients, as they are: `python kserve_program.py HTTP GRPC MODEL PHOTO`; prints JSON.

Run by a Python that has `kserve`, which the tests' own has not: it brings a server of its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

HTTP, GRPC, MODEL, PHOTO = sys.argv[1:]


def label(output: Any) -> str:
    """The most probable class of one image, in the classification extension's text: "0.912345:281:tabby"."""
    first = output.as_numpy().ravel()[0]
    text = first.decode() if isinstance(first, bytes) else str(first)
    return text.split(":", 2)[2]


def request(photo: bytes, *, binary: bool, classes: bool) -> InferRequest:
    """One photo, in JSON or behind it."""
    given = InferInput("image", [1], "BYTES")
    if binary:
        given.set_data_from_numpy(np.array([photo], np.object_), binary_data=True)
    else:
        given.data = [base64.b64encode(photo).decode()]
    parameters: dict[str, Any] = {"binary_data": binary, **({"classification": 1} if classes else {})}
    wanted = [RequestedOutput("probabilities", parameters=parameters)]
    return InferRequest(MODEL, [given], request_id="mine", request_outputs=wanted)


async def version_1(photo: bytes) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        asked = {"instances": [{"b64": base64.b64encode(photo).decode()}], "parameters": {"top_k": 1}}
        answer = await client.infer(HTTP, asked, model_name=MODEL)
        (result,) = answer["predictions"]
        refused = ""
        try:
            await client.infer(HTTP, {"instances": [{"b64": "AAAA"}]}, model_name=MODEL)
        except httpx.HTTPStatusError as error:
            refused = str(error)
        return {
            "live": await client.is_server_live(HTTP),
            "ready": await client.is_model_ready(HTTP, MODEL),
            "label": result["predictions"][0]["label"],
            "probability": result["predictions"][0]["probability"],
            "refused": refused,
        }


async def version_2(photo: bytes) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found: dict[str, Any] = {
            "live": await client.is_server_live(HTTP),
            "server ready": await client.is_server_ready(HTTP),
            "ready": await client.is_model_ready(HTTP, MODEL),
            "no model": await client.is_model_ready(HTTP, "nobody"),
        }
        for binary in (False, True):
            asked = request(photo, binary=binary, classes=True)
            answer = await client.infer(HTTP, asked, model_name=MODEL)
            found[f"label, binary {binary}"] = label(answer.outputs[0])
            all_classes = await client.infer(HTTP, request(photo, binary=binary, classes=False), model_name=MODEL)
            found[f"probability, binary {binary}"] = float(all_classes.outputs[0].as_numpy().max())
            found["id"] = answer.id
        return found


async def over_grpc(photo: bytes) -> dict[str, Any]:
    async with InferenceGRPCClient(GRPC) as client:
        answer = await client.infer(request(photo, binary=True, classes=False))
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_model_ready(MODEL),
            "probability": float(answer.outputs[0].as_numpy().max()),
        }


async def told(photo: bytes) -> dict[str, Any]:
    return {"v1": await version_1(photo), "v2": await version_2(photo), "grpc": await over_grpc(photo)}


json.dump(asyncio.run(told(Path(PHOTO).read_bytes())), sys.stdout)
