"""What callers may do with the models who have the permission to manage them. Any transport's."""

from __future__ import annotations

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.control import AccessControl
from glimpse.server.errors import FailedPreconditionError, Reason
from glimpse.server.registry import ModelRegistry, ModelStatus
from glimpse.server.repository.remote import RemoteRepository
from glimpse.server.repository.repository import Repository
from glimpse.server.repository.rolling import RolloutCommands
from glimpse.server.repository.rollout import Kind, RolloutReport, Terms

_LOGGED = 128  # characters of a name as it is audited


class ModelManagement:
    """Checks the permission of each call, and notes for the audit log what it asks for. Lives on the event loop."""

    def __init__(
        self, access: AccessControl, registry: ModelRegistry, repository: Repository | RemoteRepository | None
    ) -> None:
        """Manage the models of `repository`; None: of the one model of a server nothing can be changed."""
        self._access, self._registry, self._repository = access, registry, repository

    def list(self, call: CallContext) -> tuple[ModelStatus, ...]:
        """Every version of every model.

        Raises:
            PermissionDeniedError: expected; the caller may not manage models.
        """
        self._access.check_admin(call)
        return self._registry.models()

    def allowed(self, call: CallContext) -> bool:
        """Whether the caller may manage models."""
        return self._access.is_admin(call)

    @property
    def default(self) -> str:
        """The model that answers requests which name none; empty: there is none yet."""
        return self._registry.default

    def usual(self, status: ModelStatus) -> bool:
        """Whether a version answers requests that name its model alone."""
        return status.model is not None and self._registry.usual(status.name) is status.model

    async def load(self, call: CallContext, name: str, version: str) -> ModelStatus:
        """Load a version and wait until it is ready, see `Repository.load`.

        Raises:
            PermissionDeniedError, ModelNotFoundError, FailedPreconditionError: expected.
        """
        repository = self._changed(call, name, f"load {version or 'newest'}")
        status = await repository.load(name, version)
        return next((each for each in self._registry.models() if each.model is status.model), status)

    async def unload(self, call: CallContext, name: str, version: str) -> None:
        """Unload a version or a model, see `Repository.unload`.

        Raises:
            PermissionDeniedError, ModelNotFoundError, FailedPreconditionError: expected.
        """
        await self._changed(call, name, f"unload {version or 'all'}").unload(name, version)

    async def set_alias(self, call: CallContext, name: str, alias: str, version: str) -> bool:
        """Give a version another name, see `Repository.set_alias`; whether that outlives the server.

        Raises:
            PermissionDeniedError, ModelNotFoundError, FailedPreconditionError: expected.
        """
        commands = self._commands(self._changed(call, name, f"{alias} = {version or 'none'}"))
        return await commands.set_alias(name, alias, version)

    async def set_rollout(self, call: CallContext, name: str, kind: Kind, terms: Terms) -> bool:
        """Give a version a share of a model's requests, see `RolloutCommands.set`; whether that outlives the server.

        Raises:
            PermissionDeniedError, ModelNotFoundError, FailedPreconditionError: expected.
        """
        commands = self._commands(self._changed(call, name, f"{kind} {terms.version} {terms.share}"))
        return await commands.set_rollout(name, kind, terms)

    async def roll_back(self, call: CallContext, name: str) -> tuple[str, bool]:
        """Let the version before answer again, see `RolloutCommands.roll_back`.

        Raises:
            PermissionDeniedError, ModelNotFoundError, FailedPreconditionError: expected.
        """
        return await self._commands(self._changed(call, name, "roll back")).roll_back(name)

    async def rollouts(self, call: CallContext) -> tuple[RolloutReport, ...]:
        """All canaries and shadows.

        Raises:
            PermissionDeniedError: expected; the caller may not manage models.
            UnavailableError: expected; the process that counts for all is being replaced.
        """
        self._access.check_admin(call)
        return () if self._repository is None else await self._commands(self._repository).rollouts()

    def _commands(self, repository: Repository | RemoteRepository) -> RolloutCommands | RemoteRepository:
        if isinstance(repository, RemoteRepository):
            return repository
        return RolloutCommands(repository, repository.rolling, self._registry)

    def _changed(self, call: CallContext, name: str, what: str) -> Repository | RemoteRepository:
        call.model, call.detail = name[:_LOGGED], what[:_LOGGED]
        self._access.check_admin(call)
        if self._repository is None:
            raise FailedPreconditionError(
                Reason.MODEL_NOT_LOADED,
                "This server serves one model, which cannot be changed while it serves. Set GLIMPSE_MODELS to a folder "
                "of models instead of GLIMPSE_WEIGHTS.",
            )
        return self._repository
