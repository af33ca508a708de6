"""Glimpse's Python client: images in, ranked labels out.

    from glimpse import Client

    with Client("localhost:50051") as client:
        result = client.classify("cat.jpg", top_k=3)
        print(result.predictions[0].label, result.predictions[0].probability)

`AsyncClient` is the same for asyncio:

    async with AsyncClient("localhost:50051") as client:
        result = await client.classify("cat.jpg", top_k=3)

It needs gRPC and protobuf, but neither TensorFlow nor NumPy. The clients load gRPC on first use, so importing the
package costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glimpse.client.connection import TLS
from glimpse.client.errors import (
    AccessDeniedError,
    Code,
    DeadlineExceededError,
    GlimpseError,
    ImageRefusedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
    StreamBrokenError,
    UnavailableError,
)
from glimpse.client.feedback import FeedbackResult, TrueClass
from glimpse.client.results import (
    Explanation,
    ImageError,
    ImageResult,
    ModelDescription,
    ModelIdentity,
    Novelty,
    Prediction,
    Timing,
)

if TYPE_CHECKING:
    from glimpse.client.aio import AsyncClient
    from glimpse.client.client import Client
    from glimpse.client.health import Health, Serving

__all__ = [
    "TLS",
    "AccessDeniedError",
    "AsyncClient",
    "Client",
    "Code",
    "DeadlineExceededError",
    "Explanation",
    "FeedbackResult",
    "GlimpseError",
    "Health",
    "ImageError",
    "ImageRefusedError",
    "ImageResult",
    "InvalidRequestError",
    "ModelDescription",
    "ModelIdentity",
    "ModelNotFoundError",
    "Novelty",
    "OverloadedError",
    "Prediction",
    "RequestRefusedError",
    "ServerFaultError",
    "Serving",
    "StreamBrokenError",
    "Timing",
    "TrueClass",
    "UnavailableError",
]


# Each of these loads gRPC, so it is loaded when it is first used.
_LATER = {
    "AsyncClient": "glimpse.client.aio",
    "Client": "glimpse.client.client",
    "Health": "glimpse.client.health",
    "Serving": "glimpse.client.health",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
