"""Manages the models of a server that serves a repository of them.

    from glimpse.client.repository import ModelRepository

    with ModelRepository("localhost:50051") as repository:
        repository.load("flowers", "3")
        repository.set_alias("flowers", "stable", "3")

The server has to name the caller in GLIMPSE_ADMIN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from glimpse.client.base import BaseClient
from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

# To load a model may mean to download and to convert it.
LOADING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model."""

    name: str
    version: str
    state: str  # waiting, loading, warming, ready, retiring, unloaded or failed
    reason: (
        str  # why it has failed or what it waits for, for people; of one that is ready, why new files cannot be loaded
    )
    aliases: tuple[str, ...]
    answers_by_default: bool  # whether it answers requests that name this model and no version
    weights_digest: str  # "" unless it is ready, as the next three
    runtime: str
    device: str
    precision: str


class ModelRepository(BaseClient):
    """Lists, loads and unloads models; where the target has several servers, one of them is asked.

    Its arguments are those of `Client`.
    """

    def _prepare(self) -> None:
        # Also a server that is not serving because of a model.
        self._channel = self._connection.open(all_servers=True)
        self._stub = classifier_pb2_grpc.ModelRepositoryStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def list(self, *, timeout: float | None = None) -> tuple[ModelStatus, ...]:
        """Every version of every model, by name; of each name the oldest first.

        Raises:
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        reply = self._call(self._stub.List, pb.ModelRepositoryListRequest(), self._seconds(timeout))
        return tuple(_status(each) for each in reply.models)

    def load(self, name: str, version: str = "", *, timeout: float | None = None) -> ModelStatus:
        """Load a version, and wait until it is ready. If the time passes before, loading goes on.

        Args:
            name: of the model.
            version: its number or an alias; if empty, the newest in the repository.
            timeout: seconds to wait; without it, the client's own timeout, but ten minutes at least.

        Raises:
            ModelNotFoundError: it is not in the repository.
            RequestRefusedError: it cannot be loaded; the message says why.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        request = pb.ModelRepositoryLoadRequest(name=name, version=version)
        return _status(self._call(self._stub.Load, request, self._long(timeout)).model)

    def unload(self, name: str, version: str = "", *, timeout: float | None = None) -> None:
        """Unload a version, or all of a model. What it has begun is answered.

        Args:
            name: of the model.
            version: its number or an alias; if empty, all versions.
            timeout: seconds to wait; without it, the client's own timeout, but ten minutes at least.

        Raises:
            ModelNotFoundError: there is no such model or version.
            RequestRefusedError: the version is the stable one.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        request = pb.ModelRepositoryUnloadRequest(name=name, version=version)
        self._call(self._stub.Unload, request, self._long(timeout))

    def set_alias(self, name: str, alias: str, version: str = "", *, timeout: float | None = None) -> bool:
        """Give a version another name, once it is ready; one that is not loaded is loaded first.

        Args:
            name: of the model.
            alias: such as ``stable``, which requests without a version go to, or ``canary``.
            version: its number or another alias; if empty, the alias is removed.
            timeout: seconds to wait; without it, the client's own timeout, but ten minutes at least.

        Returns:
            Whether the alias was written to the repository. If not, it holds until the server ends.

        Raises:
            ModelNotFoundError: there is no such model or version.
            RequestRefusedError: the version cannot be loaded, or this cannot be an alias.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        request = pb.ModelRepositorySetAliasRequest(name=name, alias=alias, version=version)
        return bool(self._call(self._stub.SetAlias, request, self._long(timeout)).kept)

    def _long(self, timeout: float | None) -> float:
        return max(self.timeout, LOADING_SECONDS) if timeout is None else timeout

    def _call(self, method: Callable[..., T], request: Any, seconds: float) -> T:
        try:
            return method(request, timeout=seconds, metadata=self._connection.metadata(), wait_for_ready=self._wait)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error


def _status(told: pb.ModelStatus) -> ModelStatus:
    return ModelStatus(
        name=told.name,
        version=told.version,
        state=pb.ModelState.Name(told.state).removeprefix("MODEL_STATE_").lower(),
        reason=told.reason,
        aliases=tuple(told.aliases),
        answers_by_default=told.answers_by_default,
        weights_digest=told.weights_digest,
        runtime=told.runtime.name,
        device=told.runtime.device,
        precision=told.runtime.precision,
    )
