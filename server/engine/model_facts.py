"""What there is to know of a loaded model besides its queue: what a worker is told by the engine that has loaded it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from glimpse.models import map_rows
from glimpse.models.bundle import Bundle
from glimpse.models.outputs import CLASS_MAPS, FEATURE_STATISTICS, HIDDEN
from glimpse.models.spec import NetworkSummary
from glimpse.server.batching.model_queue import ModelQueue
from glimpse.server.domain import ClassChoice
from glimpse.server.engine.arena import Layout
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.runtime.agreement import Agreement


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model without its queue; can be pickled. The fields are those of `LoadedModel`."""

    bundle: Bundle
    network: NetworkSummary
    runtime: str
    device: str
    precision: str
    batch_sizes: tuple[int, ...]
    output_shapes: dict[str, tuple[int, ...]]  # of each output, by name: the shape for one image, float32
    agreement: Agreement | None = None
    geometries: frozenset[str] | None = None
    choice: ClassChoice | None = None

    @classmethod
    def of(cls, model: LoadedModel) -> Self:
        """Those of a model that has been loaded in this process. It computes one image to see what comes out."""
        black = np.zeros(model.bundle.recipe.pixels_shape, np.uint8)
        answer = model.batcher.submit(black, outputs=model.outputs).result()
        shapes = {name: values.shape for name, values in answer.outputs.items()}
        if (grid := model.network.maps) is not None:  # not computed here: they cost nothing before they are asked for
            shapes[CLASS_MAPS] = map_rows.shape(len(model.bundle.labels), grid)
        if (judged := model.bundle.novelty) is not None and judged.distance is not None:
            shapes[FEATURE_STATISTICS] = (judged.distance.features,)
        return cls(
            bundle=model.bundle,
            network=model.network,
            runtime=model.runtime,
            device=model.device,
            precision=model.precision,
            batch_sizes=model.batch_sizes,
            output_shapes=shapes,
            agreement=model.agreement,
            geometries=model.geometries,
            choice=model.choice,
        )

    @property
    def told(self) -> dict[str, str]:
        """What a supervisor is told of the model, to compare it with those of other engines."""
        return {
            "name": self.bundle.name,
            "version": self.bundle.version,
            "weights_digest": self.bundle.weights_digest,
            "content": self.content,
        }

    @property
    def content(self) -> str:
        """A hash of the bundle: of its weights' digest, its labels, its recipe and all else, wherever its files are.

        The same in every process, which neither a pickle nor Python's own hash is.
        """
        text = json.dumps(_plain(self.bundle), sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def layout(self) -> Layout:
        """Of the memory that a worker and an engine with this model share."""
        return Layout.of(self.bundle.recipe.pixels_shape, self.output_shapes, self.batch_sizes)

    def loaded(self, queue: ModelQueue) -> LoadedModel:
        """The model, with the queue that leads to where it is computed."""
        return LoadedModel(
            bundle=self.bundle,
            network=self.network,
            runtime=self.runtime,
            device=self.device,
            precision=self.precision,
            batch_sizes=self.batch_sizes,
            batcher=queue,
            outputs=frozenset(self.output_shapes) - HIDDEN,
            agreement=self.agreement,
            geometries=self.geometries,
            choice=self.choice,
        )


def _plain(value: Any) -> Any:
    """The value as JSON has it, without paths and what a comparison leaves out."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.compare}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return None if isinstance(value, Path) else value
