"""The two names under which each model is served: NAME takes photos as they are, NAME.pixels takes pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from glimpse.models.outputs import PROBABILITIES
from glimpse.server.domain import ModelSelector
from glimpse.server.errors import FailedPreconditionError, ModelNotFoundError, UnavailableError
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.open_inference.messages import TensorMetadata
from glimpse.server.service import Service

SUFFIX: Final = ".pixels"
IMAGE, PIXELS = "image", "pixels"  # the input of each face
BYTES, UINT8, FP32 = "BYTES", "UINT8", "FP32"


@dataclass(frozen=True, slots=True)
class Face:
    """A model under one of its names."""

    name: str  # as it was asked for
    model: LoadedModel
    pixels: bool  # whether it takes pixels

    @property
    def platform(self) -> str:
        """What computes it."""
        return f"glimpse_{self.model.runtime}"

    def versions(self, service: Service) -> list[str]:
        """The versions of the model that answer."""
        name = self.model.identity.name
        return [each.version for each in service.models() if each.name == name and each.model is not None]

    @property
    def input(self) -> TensorMetadata:
        """The only input. Photos have no size of their own; pixels may have another one than the network's."""
        if self.pixels:
            return TensorMetadata(PIXELS, UINT8, (-1, *self.model.bundle.input_shape))
        return TensorMetadata(IMAGE, BYTES, (-1, 1))

    @property
    def output(self) -> TensorMetadata:
        """The output that is returned unless others are asked for.

        It is the only one that is advertised: Triton's image clients take no model with several.
        """
        return TensorMetadata(PROBABILITIES, FP32, (-1, len(self.model.bundle.labels)))


def find(service: Service, name: str, version: str) -> Face:
    """A loaded model by one of its names; an empty one is that of the default model.

    Args:
        service: has the models.
        name: of the model, with or without the suffix.
        version: of the model; empty means the usual one.

    Raises:
        ModelNotFoundError, UnavailableError, FailedPreconditionError: expected; see `ModelRegistry.resolve`.
    """
    own = name.removesuffix(SUFFIX)
    model = service.model(ModelSelector(own, version))
    pixels = own != name
    return Face(name if own else model.identity.name + SUFFIX * pixels, model, pixels)


def loaded(service: Service) -> list[Face]:
    """All models that are loaded, under the names by which they take photos."""
    models = [each.model for each in service.models() if each.model is not None]
    return [Face(model.identity.name, model, pixels=False) for model in models]


def is_ready(service: Service, name: str, version: str) -> bool:
    """Whether a model takes requests: this one alone, whatever becomes of the others.

    Raises:
        ModelNotFoundError: expected; there is no such model, loaded or not.
    """
    try:
        face = find(service, name, version)
    except (UnavailableError, FailedPreconditionError):  # the latter: an alias names a version that is not loaded
        return False
    except ModelNotFoundError:
        own = service.name(name.removesuffix(SUFFIX))
        if any(each.name == own and version in {"", each.version, *each.aliases} for each in service.models()):
            return False
        raise
    return service.answers(face.model)
