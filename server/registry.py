"""The loaded models, and which of them a request means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from glimpse.models.bundle import Bundle
from glimpse.models.outputs import DEFAULT_OUTPUTS
from glimpse.models.spec import NetworkSummary
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ModelIdentity, ModelSelector
from glimpse.server.errors import ModelNotFoundError, Reason, UnavailableError, shown
from glimpse.server.runtime.agreement import Agreement

# Most of a start is the framework's import, a few seconds.
_LOADING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to answer: what it is, and the queue in front of it."""

    bundle: Bundle
    network: NetworkSummary
    runtime: str
    device: str
    precision: str
    batch_sizes: tuple[int, ...]
    batcher: ModelQueue
    outputs: frozenset[str] = DEFAULT_OUTPUTS  # that a request may ask for, by name
    agreement: Agreement | None = None  # of the reduced precision that was considered, with float32
    identity: ModelIdentity = field(init=False)

    def __post_init__(self) -> None:
        identity = ModelIdentity(self.bundle.name, self.bundle.version, self.bundle.weights_digest)
        object.__setattr__(self, "identity", identity)

    def close(self, seconds: float | None = None) -> bool:
        """Compute what is queued and take no more; what the model holds is free once nobody refers to it.

        Returns:
            Whether that was done within `seconds`; None: however long it takes.
        """
        return self.batcher.close(seconds)


class ModelRegistry:
    """Models by name and version; the first one added is the default."""

    def __init__(self) -> None:
        self._models: dict[str, list[LoadedModel]] = {}
        # Replaced as a whole: a scrape looks at it from a thread of its own.
        self._all: tuple[LoadedModel, ...] = ()

    def add(self, model: LoadedModel) -> None:
        """Make a model answer requests; among versions of one name the one added last is the newest."""
        self._models.setdefault(model.identity.name, []).append(model)
        self._all = tuple(each for versions in self._models.values() for each in versions)

    def replace(self, model: LoadedModel) -> None:
        """Make a model answer in place of all that are there."""
        self._models, self._all = {model.identity.name: [model]}, (model,)

    def __iter__(self) -> Iterator[LoadedModel]:
        """All of them; may be called from any thread."""
        return iter(self._all)

    def resolve(self, selector: ModelSelector) -> LoadedModel:
        """The model that a request means.

        Raises:
            ModelNotFoundError: expected; no such name or version.
            UnavailableError: expected; nothing is loaded yet.
        """
        if not self._models:
            raise UnavailableError(
                Reason.NOT_READY, "The model is still loading. Try again later.", retry_after=_LOADING_SECONDS
            )
        name = selector.name or next(iter(self._models))
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFoundError(
                Reason.MODEL_NOT_FOUND,
                f"No model {shown(name)} is loaded. Loaded: {', '.join(self._models)}.",
                field="model.name",
            )
        for model in reversed(versions):
            if selector.version in ("", model.identity.version):
                return model
        known = ", ".join(model.identity.version for model in versions)
        raise ModelNotFoundError(
            Reason.MODEL_NOT_FOUND,
            f"Model {name} has no version {shown(selector.version)}. Loaded: {known}.",
            field="model.version",
        )
