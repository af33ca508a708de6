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


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """What one of the two versions has done during a rollout: of a canary requests, of a shadow images."""

    version: str
    answered: int
    failed: int
    mean_seconds: float  # of an answer; a canary's from the beginning of the request, a shadow's without waiting


@dataclass(frozen=True, slots=True)
class Rollout:
    """A version that gets a share of a model's requests (canary), or copies of them (shadow)."""

    name: str
    kind: str  # canary or shadow
    version: str
    share: float  # of the requests that name no version, from 0 to 1; 0: it was rolled back
    rolled_back: str  # why, for people; "" unless it was
    max_error_rate: float | None  # above which a canary is rolled back, from 0 to 1
    min_agreement: float | None  # below which a canary is rolled back, and a shadow makes an alert fire
    min_requests: int  # or compared images of the window, before which neither is judged
    window_seconds: float
    new: RolloutCounts
    usual: RolloutCounts
    compared_images: int
    agreement: float | None  # share of the compared images with the same first class; None: there are none
    mean_probability_difference: float | None  # for the class that was answered first, absolute; None: there are none
    dropped_images: int  # copies that were not compared


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

    def rollouts(self, *, timeout: float | None = None) -> tuple[Rollout, ...]:
        """Every canary and shadow, by name of the model; also canaries that were rolled back.

        Raises:
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        reply = self._call(self._stub.List, pb.ModelRepositoryListRequest(), self._seconds(timeout))
        return tuple(_rollout(each) for each in reply.rollouts)

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

    def canary(
        self,
        name: str,
        version: str,
        *,
        share: float,
        max_error_rate: float | None = None,
        min_agreement: float | None = None,
        min_requests: int | None = None,
        window: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Let a version answer a share of the requests that name no version; one that is not loaded is loaded first.

        It is rolled back, so that it answers none of them, if it fails too often or differs too often from the version
        that answers the others.

        Args:
            name: of the model.
            version: its number or an alias.
            share: from 0 to 1; 0 ends it.
            max_error_rate: the largest share of its requests that may fail, from 0 to 1; without it, any.
            min_agreement: the least share of its images for which both versions name the same first class, from 0 to
                1; without it, the answers are not compared.
            min_requests: or images, of the window, before which nothing is decided; 50 without it.
            window: seconds; 300 without it.
            timeout: seconds to wait; without it, the client's own timeout, but ten minutes at least.

        Returns:
            Whether it was written to the repository. If not, it holds until the server ends.

        Raises:
            ModelNotFoundError: there is no such model or version.
            RequestRefusedError: the version cannot be loaded, or answers these requests already.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        terms = pb.RolloutTerms(
            version=version,
            share=share,
            max_error_rate=max_error_rate,
            min_agreement=min_agreement,
            min_requests=min_requests,
            window_seconds=window,
        )
        return self._set_rollout(name, pb.ROLLOUT_KIND_CANARY, terms, timeout)

    def shadow(
        self,
        name: str,
        version: str,
        *,
        share: float,
        min_agreement: float | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Have a version classify copies of a share of the requests that name no version, and compare the answers.

        Nobody gets its answers or its errors. Copies are computed when the server has time, else dropped.

        Args:
            name: of the model.
            version: its number or an alias; if it is not loaded, it is loaded first.
            share: from 0 to 1; 0 ends it.
            min_agreement: the least share of the images for which both versions name the same first class, from 0 to
                1, below which the alert fires; 0.9 without it.
            timeout: seconds to wait; without it, the client's own timeout, but ten minutes at least.

        Returns:
            Whether it was written to the repository. If not, it holds until the server ends.

        Raises:
            ModelNotFoundError: there is no such model or version.
            RequestRefusedError: the version cannot be loaded, or answers these requests already.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        terms = pb.RolloutTerms(version=version, share=share, min_agreement=min_agreement)
        return self._set_rollout(name, pb.ROLLOUT_KIND_SHADOW, terms, timeout)

    def roll_back(self, name: str, *, timeout: float | None = None) -> tuple[str, bool]:
        """End the canary of a model; if there is none, make the version stable again that was it before.

        Returns:
            The version that answers requests which name none, and whether that was written to the repository.

        Raises:
            ModelNotFoundError: the version is not in the repository any more.
            RequestRefusedError: there is nothing to roll back.
            AccessDeniedError: the caller may not manage models.
            GlimpseError: the call failed; `glimpse.client.errors` shows the tree of errors.
        """
        reply = self._call(self._stub.RollBack, pb.ModelRepositoryRollBackRequest(name=name), self._long(timeout))
        return reply.version, reply.kept

    def _set_rollout(self, name: str, kind: pb.RolloutKind, terms: pb.RolloutTerms, timeout: float | None) -> bool:
        request = pb.ModelRepositorySetRolloutRequest(name=name, kind=kind, terms=terms)
        return bool(self._call(self._stub.SetRollout, request, self._long(timeout)).kept)

    def _long(self, timeout: float | None) -> float:
        return self._seconds(max(self.timeout, LOADING_SECONDS) if timeout is None else timeout)

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


def _rollout(told: pb.ModelRollout) -> Rollout:
    terms = told.terms
    return Rollout(
        name=told.name,
        kind=pb.RolloutKind.Name(told.kind).removeprefix("ROLLOUT_KIND_").lower(),
        version=terms.version,
        share=terms.share,
        rolled_back=told.rolled_back,
        max_error_rate=terms.max_error_rate if terms.HasField("max_error_rate") else None,
        min_agreement=terms.min_agreement if terms.HasField("min_agreement") else None,
        min_requests=terms.min_requests,
        window_seconds=terms.window_seconds,
        new=_counts(told.new),
        usual=_counts(told.usual),
        compared_images=told.compared_images,
        agreement=told.agreement if told.HasField("agreement") else None,
        mean_probability_difference=(
            told.mean_probability_difference if told.HasField("mean_probability_difference") else None
        ),
        dropped_images=told.dropped_images,
    )


def _counts(told: pb.RolloutCounts) -> RolloutCounts:
    return RolloutCounts(told.version, told.answered, told.failed, told.mean_seconds)
