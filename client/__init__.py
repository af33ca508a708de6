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
from glimpse.client.results import (
    ImageError,
    ImageResult,
    ModelDescription,
    ModelIdentity,
    Prediction,
    Timing,
)

if TYPE_CHECKING:
    from glimpse.client.aio import AsyncClient
    from glimpse.client.client import Client

__all__ = [
    "TLS",
    "AccessDeniedError",
    "AsyncClient",
    "Client",
    "Code",
    "DeadlineExceededError",
    "GlimpseError",
    "ImageError",
    "ImageRefusedError",
    "ImageResult",
    "InvalidRequestError",
    "ModelDescription",
    "ModelIdentity",
    "ModelNotFoundError",
    "OverloadedError",
    "Prediction",
    "RequestRefusedError",
    "ServerFaultError",
    "StreamBrokenError",
    "Timing",
    "UnavailableError",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from glimpse.client.client import Client

        return Client
    if name == "AsyncClient":
        from glimpse.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
