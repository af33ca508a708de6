"""How attacks are written down: by what the attacker does."""

from __future__ import annotations

from typing import Any

from tools.load.attack.scenario import Attack

CLASSIFY = "/glimpse.v1.ImageClassifier/Classify"
STREAM = "/glimpse.v1.ImageClassifier/ClassifyStream"
DESCRIBE = "/glimpse.v1.ImageClassifier/DescribeModel"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
BAD_TOKEN = [["authorization", "Bearer not-a-token-of-this-server"]]


def calls(
    name: str,
    /,
    path: str = CLASSIFY,
    sent: str = "",
    *,
    sources: int = 1,
    beside: bool = False,
    streamed: bool = False,
    **more: Any,
) -> Attack:
    """Calls in a closed loop; see `tools.load.attack.attacker.calls`."""
    return Attack(name, "calls", {"path": path, "sent": sent, **more}, sources, streamed, beside)


def silent(name: str, /, path: str = CLASSIFY, **more: Any) -> Attack:
    """Calls that begin and send nothing."""
    return calls(name, path, end=False, pause=0.05, **more)


def flood(
    name: str, /, how: str, path: str = CLASSIFY, *, sources: int = 1, beside: bool = False, **more: Any
) -> Attack:
    """Calls as fast as the server reads them."""
    return Attack(name, "flood", {"path": path, "how": how, **more}, sources, beside=beside)


def connect(name: str, /, how: str, *, sources: int = 1, beside: bool = False, **more: Any) -> Attack:
    """Connections that come and go."""
    return Attack(name, "connect", {"how": how, **more}, sources, beside=beside)


def hoard(name: str, /, how: str, *, sources: int = 1, beside: bool = False, **more: Any) -> Attack:
    """Connections that stay."""
    return Attack(name, "hoard", {"how": how, **more}, sources, beside=beside)
