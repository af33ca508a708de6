"""A hook in front of each weight that Keras' layers make."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

_changing = threading.RLock()


@contextmanager
def each_weight(hook: Callable[[keras.layers.Layer, Any, Any], Any]) -> Iterator[None]:
    """Call `hook(layer, shape, initializer)`, which returns the initialiser, before each weight of this thread inside.

    What `hook` raises is raised in the layer, before the weight's memory is taken. Weights that other threads make
    meanwhile, such as those of a model that is loaded beside this one, are made as ever.
    """
    with _changing:
        original = keras.layers.Layer.add_weight
        thread = threading.get_ident()

        def add_weight(
            self: keras.layers.Layer, shape: Any = None, initializer: Any = None, *args: Any, **values: Any
        ) -> Any:
            if threading.get_ident() == thread:
                initializer = hook(self, shape, initializer)
            return original(self, shape, initializer, *args, **values)

        # Keras has no hook in front of a variable, and every layer makes its own with this method. A StatelessScope, in
        # which variables have shapes and no values, would make the values later, also those of a refused network.
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = original
