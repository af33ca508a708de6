"""The gRPC servicer of `glimpse.v1.ModelRepository`: from protobuf to plain values and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc.aio

from glimpse.server.access.call_context import current_call
from glimpse.server.errors import InvalidRequestError, Reason
from glimpse.server.fields import Field, Names
from glimpse.server.messages.describe import runtime
from glimpse.server.registry import ModelStatus
from glimpse.server.repository.management import ModelManagement
from glimpse.server.repository.rollout import Counts, Kind, RolloutReport, Terms
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc

REPOSITORY_SERVICE = pb.DESCRIPTOR.services_by_name["ModelRepository"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


def names() -> Mapping[str, Names]:
    """What the messages of each method call the fields that errors are about."""
    model: Names = {Field.MODEL: "name"}
    both: Names = {**model, Field.VERSION: "version"}
    by_method: dict[str, Names] = {
        **dict.fromkeys(("Load", "Unload", "SetAlias"), both),
        "SetRollout": {**model, Field.VERSION: "terms.version"},
        "RollBack": model,
    }
    return {f"/{REPOSITORY_SERVICE}/{method}": found for method, found in by_method.items()}


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
        call = current_call.get()
        models = self._management.list(call)
        return pb.ModelRepositoryListResponse(
            models=[self._status(each) for each in models],
            default_model=self._management.default,
            rollouts=[_rollout(each) for each in await self._management.rollouts(call)],
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

    async def SetRollout(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositorySetRolloutRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.ModelRepositorySetRolloutResponse:
        """Begin, change or end a canary or a shadow."""
        kind, terms = _asked(request)
        kept = await self._management.set_rollout(current_call.get(), request.name, kind, terms)
        return pb.ModelRepositorySetRolloutResponse(kept=kept)

    async def RollBack(  # noqa: N802 - the contract's name
        self,
        request: pb.ModelRepositoryRollBackRequest,
        context: Context,  # noqa: ARG002 - the contract's
    ) -> pb.ModelRepositoryRollBackResponse:
        """Let the version before answer again."""
        version, kept = await self._management.roll_back(current_call.get(), request.name)
        return pb.ModelRepositoryRollBackResponse(version=version, kept=kept)

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


def _asked(request: pb.ModelRepositorySetRolloutRequest) -> tuple[Kind, Terms]:
    """What a request asks for.

    Raises:
        InvalidRequestError: expected; it is nothing that can be.
    """
    kinds = {pb.ROLLOUT_KIND_CANARY: Kind.CANARY, pb.ROLLOUT_KIND_SHADOW: Kind.SHADOW}
    terms = request.terms
    given = {
        name: getattr(terms, name)
        for name in ("max_error_rate", "min_agreement", "min_requests", "window_seconds")
        if terms.HasField(name)
    }
    try:
        kind = kinds[request.kind]
        return kind, Terms(terms.version, terms.share, **given)
    except KeyError:
        message, field = "kind must be ROLLOUT_KIND_CANARY or ROLLOUT_KIND_SHADOW.", "kind"
    except ValueError as error:
        message, field = f"{error}.", "terms"
    raise InvalidRequestError(Reason.INVALID_PARAMETER, message, field=field)


def _rollout(rollout: RolloutReport) -> pb.ModelRollout:
    terms, found = rollout.terms, rollout.comparison
    told = pb.ModelRollout(
        name=rollout.name,
        kind=f"ROLLOUT_KIND_{rollout.kind.name}",
        terms=pb.RolloutTerms(
            version=terms.version,
            share=terms.share,
            max_error_rate=terms.max_error_rate,
            min_agreement=terms.min_agreement,
            min_requests=terms.min_requests,
            window_seconds=terms.window_seconds,
        ),
        rolled_back=terms.rolled_back,
        new=_counts(terms.version, rollout.new),
        usual=_counts(rollout.reference, rollout.usual),
        compared_images=found.images,
        dropped_images=found.dropped,
    )
    if found.images:
        told.agreement, told.mean_probability_difference = found.agreement, found.mean_difference
    return told


def _counts(version: str, counts: Counts) -> pb.RolloutCounts:
    return pb.RolloutCounts(
        version=version, answered=counts.answered, failed=counts.failed, mean_seconds=counts.mean_seconds
    )
