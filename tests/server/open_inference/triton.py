"""Calls a server as users of Triton do, with its own client: `python triton.py TARGET MODEL FILE SIZE`.

A program of its own, because a process can hold the messages of the protocol from one origin only. It says as JSON what
it was told; FILE is a photo, SIZE the side of the network's input.
"""

from __future__ import annotations

import asyncio
import io
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
from PIL import Image
from tritonclient.utils import InferenceServerException


def photo(client: Any, data: bytes) -> Any:
    """The input of a model that takes photos."""
    tensor = client.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=object))
    return tensor


def pixels(client: Any, data: bytes, size: int) -> Any:
    """The input of a model that takes pixels, resized here."""
    resized = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    tensor = client.InferInput("pixels", [1, size, size, 3], "UINT8")
    tensor.set_data_from_numpy(np.asarray(resized)[None])
    return tensor


def label(result: Any) -> str:
    """The label of the highest class."""
    return str(result.as_numpy("probabilities").ravel()[0].decode().split(":")[2])


def sync(target: str, model: str, data: bytes, size: int) -> dict[str, Any]:
    """All that the synchronous client does."""
    client = grpcclient.InferenceServerClient(target)
    best = [grpcclient.InferRequestedOutput("probabilities", class_count=1)]
    told: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready() and client.is_model_ready(model),
        "extensions": list(client.get_server_metadata().extensions),
        "index": [each.name for each in client.get_model_repository_index().models],
        "batch": client.get_model_config(f"{model}.pixels").config.max_batch_size,
        "probabilities": client.infer(model, [photo(grpcclient, data)]).as_numpy("probabilities")[0].tolist(),
        "label": label(client.infer(model, [photo(grpcclient, data)], outputs=best, priority=1, timeout=60_000_000)),
        "pixels": label(client.infer(f"{model}.pixels", [pixels(grpcclient, data, size)], outputs=best)),
        "top_k": label(client.infer(model, [photo(grpcclient, data)], parameters={"top_k": 2})),
        "compressed": label(client.infer(model, [photo(grpcclient, data)], outputs=best, compression_algorithm="gzip")),
        "answered": client.get_inference_statistics(model).model_stats[0].inference_stats.success.count,
    }
    for name, tensor, of in (
        ("bad photo", photo(grpcclient, b"no image"), model),
        ("no model", photo(grpcclient, data), "nosuch"),
    ):
        try:
            client.infer(of, [tensor])
        except InferenceServerException as error:
            told[name] = error.status()
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for each in (data, b"no image", data):
        client.async_stream_infer(model, [photo(grpcclient, each)], outputs=best)
    client.stop_stream()
    found = [answers.get_nowait() for _ in range(3)]
    told["stream"] = [label(result) if error is None else error.message()[:12] for result, error in found]
    return told


async def asynchronous(target: str, model: str, data: bytes) -> dict[str, Any]:
    """What the client for asyncio does."""
    async with aioclient.InferenceServerClient(target) as client:
        best = [aioclient.InferRequestedOutput("probabilities", class_count=1)]
        results = await asyncio.gather(
            *[client.infer(model, [photo(aioclient, data)], outputs=best, request_id=str(n)) for n in range(4)]
        )
        return {"aio": [label(each) for each in results], "ids": [each.get_response().id for each in results]}


def main() -> None:
    """Call, and say what was told."""
    target, model, file, size = sys.argv[1:]
    data = Path(file).read_bytes()
    told = sync(target, model, data, int(size)) | asyncio.run(asynchronous(target, model, data))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
