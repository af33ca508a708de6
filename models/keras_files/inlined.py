"""Flattening a network: nested models become one graph, and layers that only training uses are removed.

People nest networks (a classifier around a published one), and put augmentation into them. Of a flat graph the last
operation is known, and the size of every output; and what does nothing to a picture at inference cannot trouble a
runtime.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import keras
import numpy as np

from glimpse.models.complexity import multiply_adds

# By Keras' own description these do nothing at inference.
_TRAINING_ONLY = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


class Flat(NamedTuple):
    """A network without nested models."""

    model: keras.Model  # float32 [N, H, W, C] -> what the original gives; its layers are the original's own
    multiply_adds: int  # of convolutions and dense layers, for one image
    calls: Counter[int]  # by a layer's id, at how many places it is called


def inlined(model: keras.Model, shape: tuple[int, int, int]) -> Flat:
    """Flatten a network by calling its layers again, one after the other.

    Args:
        model: functional or sequential, with one input and one output.
        shape: (height, width, channels) of the images.
    """
    walk = _Walk()
    image = keras.Input(shape, name="image")
    dtype = model.inputs[0].dtype
    x = image if dtype == "float32" else keras.ops.cast(image, dtype)
    return Flat(keras.Model(image, walk.through(model, x), name=model.name), walk.multiply_adds, walk.calls)


class _Walk:
    """Calls layers one by one, and adds up what they cost."""

    def __init__(self) -> None:
        self.multiply_adds = 0
        self.calls: Counter[int] = Counter()

    def through(self, model: keras.Model, x: keras.KerasTensor) -> keras.KerasTensor:
        """The output of a model for `x`, its layers called here."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                x = self.call(layer, x)
            return x
        # The only way through a graph with a say in each call and no copy of the layers.
        found = model._run_through_graph([x], call_fn=self.call)  # noqa: SLF001
        (output,) = keras.tree.flatten(found)
        return output

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """The output of `layer`; a nested model is flattened, and a layer without effect at inference is skipped."""
        if _plain(args, kwargs):
            (x,) = args
            if _one_to_one(layer):
                return self.through(layer, x)
            if isinstance(layer, keras.layers.Pipeline):
                for each in layer.layers:
                    x = self.call(each, x)
                return x
            if isinstance(layer, _TRAINING_ONLY) or _keeps_pictures(layer, x):
                return _as_computed_in(layer, x)
        output = layer(*args, **kwargs)
        self.calls[id(layer)] += 1
        if isinstance(layer, keras.Layer) and isinstance(output, keras.KerasTensor):
            self.multiply_adds += multiply_adds(layer, output.shape)
        return output


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has one tensor and nothing else that counts: whoever calls the model says whether it trains."""
    others = any(value is not None for name, value in kwargs.items() if name != "training")
    return len(args) == 1 and isinstance(args[0], keras.KerasTensor) and not others


def _one_to_one(layer: Any) -> bool:
    if isinstance(layer, keras.Sequential):
        return True
    return isinstance(layer, keras.Model) and len(getattr(layer, "inputs", None) or ()) == len(layer.outputs) == 1


def _keeps_pictures(layer: Any, x: keras.KerasTensor) -> bool:
    """Whether a layer for images gives them back as they are when nothing is trained; tried on some."""
    if not hasattr(layer, "transform_images") or len(x.shape) != 4 or None in x.shape[1:]:
        return False
    pictures = np.random.default_rng(0).uniform(40, 200, (2, *x.shape[1:])).astype(np.float32)
    pictures = keras.ops.convert_to_numpy(keras.ops.cast(pictures, layer.compute_dtype))
    found = keras.ops.convert_to_numpy(layer(pictures, training=False))
    return found.shape == pictures.shape and np.array_equal(found, pictures)


def _as_computed_in(layer: keras.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    """What the layer would have done all the same."""
    rounds = hasattr(layer, "transform_images") or keras.backend.is_float_dtype(x.dtype)
    return keras.ops.cast(x, layer.compute_dtype) if rounds and x.dtype != layer.compute_dtype else x
