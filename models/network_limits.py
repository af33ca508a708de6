"""How large a network may become, checked while it is built: options that are each in bounds multiply.

A bundle may come from anybody. Each variable is counted before its memory is taken, so that a description that asks for
billions of weights is refused with a sentence and does not end the process.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

MOST_PARAMETERS = 1 << 30  # 4 GiB in float32; the largest published network of the library has 144 million
MOST_MULTIPLY_ADDS = 10**13  # for one image; the largest published network has 2 * 10**10 at its own size
_changing = threading.RLock()


class GiantNetworkError(ValueError):
    """A network is larger than it may be; the message says by which measure, and what to do."""


@contextmanager
def parameters_of(name: str, most: int) -> Iterator[None]:
    """Refuse to make a variable with which the layers built inside have more than `most` scalar weights.

    Layers that other threads build meanwhile, such as those of a model that is loaded beside this one, do not count.

    Args:
        name: of the network, for the message.
        most: scalar weights, trainable and not.

    Raises:
        GiantNetworkError: there would be more; raised in the layer that is one too many.
    """
    with _changing:
        original = keras.layers.Layer.add_weight
        count, thread = 0, threading.get_ident()

        def add_weight(self: keras.layers.Layer, shape: Any = None, *args: Any, **values: Any) -> Any:
            nonlocal count
            if threading.get_ident() != thread:
                return original(self, shape, *args, **values)
            sizes = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
            count += math.prod(size for size in sizes if size)
            if count > most:
                raise GiantNetworkError(
                    f"{name} would have more than {most:,} weights: {count:,} with its layer {self.name}, and there "
                    "may be more layers. Give it smaller options, such as fewer or narrower blocks, or smaller images."
                )
            return original(self, shape, *args, **values)

        # Keras has no hook in front of a variable, and every layer makes its own with this method. A StatelessScope, in
        # which variables have shapes and no values, would make the values later, also those of a refused network.
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = original


def check_multiply_adds(name: str, count: int) -> None:
    """Refuse a network that takes more than `MOST_MULTIPLY_ADDS` for one image.

    Raises:
        GiantNetworkError: it does.
    """
    if count > MOST_MULTIPLY_ADDS:
        raise GiantNetworkError(
            f"{name} would take {count:,} multiply-adds for one image, and at most {MOST_MULTIPLY_ADDS:,} are allowed. "
            "Give it smaller images, or smaller options, such as fewer or narrower blocks."
        )
