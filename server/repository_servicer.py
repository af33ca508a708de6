"""The gRPC servicer of `glimpse.v1.ModelRepository`: from protobuf to plain values and back."""

from __future__ import annotations

from typing import Any

import grpc.aio

from glimpse.server.access.call_context import current_call
from glimpse.server.describe import runtime
from glimpse.server.registry import ModelStatus
from glimpse.server.repository.management import ModelManagement
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

REPOSITORY_SERVICE = pb.DESCRIPTOR.services_by_name["ModelRepository"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class ModelRepositoryServicer(classifier_pb2_grpc.ModelRepositoryServicer):
    """`glimpse.v1.ModelRepository`."""

    def __init__(self, management: ModelManagement) -> None:
        """Serve `management`."""
        self._management = management

    async def List(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositoryListRequest,  # noqa: ARG002 - the contract's
        context: Context,  # noqa: ARG002 - the same
    ) -> pb.ModelRepositoryListResponse:
        """List every version of every model."""
        models = self._management.list(current_call.get())
        return pb.ModelRepositoryListResponse(
            models=[self._status(each) for each in models], default_model=self._management.default
        )

    async def Load(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositoryLoadRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.ModelRepositoryLoadResponse:
        """Load a version."""
        status = await self._management.load(current_call.get(), request.name, request.version)
        return pb.ModelRepositoryLoadResponse(model=self._status(status))

    async def Unload(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositoryUnloadRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.ModelRepositoryUnloadResponse:
        """Unload a version, or all of a model."""
        await self._management.unload(current_call.get(), request.name, request.version)
        return pb.ModelRepositoryUnloadResponse()

    async def SetAlias(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositorySetAliasRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.ModelRepositorySetAliasResponse:
        """Give a version another name."""
        kept = await self._management.set_alias(current_call.get(), request.name, request.alias, request.version)
        return pb.ModelRepositorySetAliasResponse(kept=kept)

    def _status(self, status: ModelStatus) -> pb.ModelStatus:
        told = pb.ModelStatus(
            name=status.name,
            version=status.version,
            state=f"MODEL_STATE_{status.state.name}",
            reason=status.reason,
            aliases=status.aliases,
            answers_by_default=self._management.usual(status),
        )
        if status.model is not None:
            told.weights_digest = status.model.identity.weights_digest
            told.runtime.CopyFrom(runtime(status.model))
        return told
