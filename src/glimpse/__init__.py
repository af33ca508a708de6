"""Glimpse: classify images with a service that answers over gRPC.

The Python client is all that is needed to call a server:

    from glimpse import Client

    with Client("localhost:50051") as client:
        result = client.classify("cat.jpg", top_k=3)
        print(result.predictions[0].label, result.predictions[0].probability)

Without a server, in the same process:

    from glimpse import Classifier

    with Classifier.load("imagenet") as classifier:
        result = classifier.classify("cat.jpg", top_k=3)

``glimpse.client`` is the client and the command line, ``glimpse.v1`` the gRPC stubs; both are installed by
``glimpse-client``. ``glimpse-serve`` adds ``glimpse.server`` and ``glimpse.models``: the server, `Classifier`, and the
block library.
What is named here is loaded when it is first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glimpse.client import (
        TLS,
        AccessDeniedError,
        AsyncClient,
        Client,
        Code,
        DeadlineExceededError,
        Explanation,
        FeedbackResult,
        GlimpseError,
        Health,
        ImageError,
        ImageRefusedError,
        ImageResult,
        InvalidRequestError,
        ModelDescription,
        ModelIdentity,
        ModelNotFoundError,
        Novelty,
        OverloadedError,
        Prediction,
        RequestRefusedError,
        ServerFaultError,
        Serving,
        StreamBrokenError,
        Timing,
        TrueClass,
        UnavailableError,
    )
    from glimpse.server.in_process import Classifier as Classifier

__version__ = "0.1.0"

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
    "__version__",
]


# Not in __all__: `from glimpse import *` works where the client alone is installed.
_OF_SERVER = "Classifier"


def __getattr__(name: str) -> Any:
    if name == _OF_SERVER:
        return _classifier()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("glimpse.client"), name)


def _classifier() -> Any:
    """`Classifier`.

    Raises:
        ImportError: what it needs is not installed.
    """
    try:
        return importlib.import_module("glimpse.server.in_process").Classifier
    except ModuleNotFoundError as error:
        raise ImportError(
            f"glimpse.Classifier computes in this process and needs the packages of the server; {error.name} is not "
            "installed. In a clone of Glimpse, pip install ./src '.[server]' installs them; from a registry that has "
            'them, pip install "glimpse-serve[server]". To call a server, use glimpse.Client.',
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, _OF_SERVER})
