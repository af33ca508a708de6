"""How large a network may become, checked while it is built: options that are each in bounds multiply.

A bundle may come from anybody. Each variable is counted before its memory is taken, so that a description that asks for
billions of weights is refused with a sentence and does not end the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from glimpse.models.each_weight import each_weight

MOST_PARAMETERS = 1 << 30  # 4 GiB in float32; the largest published network of the library has 144 million
MOST_MULTIPLY_ADDS = 10**13  # for one image; the largest published network has 2 * 10**10 at its own size


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
    count = 0

    def counted(layer: keras.layers.Layer, shape: Any, initializer: Any) -> Any:
        nonlocal count
        sizes = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        count += math.prod(size for size in sizes if size)
        if count > most:
            raise GiantNetworkError(
                f"{name} would have more than {most:,} weights: {count:,} with its layer {layer.name}, and there may "
                "be more layers. Give it smaller options, such as fewer or narrower blocks, or smaller images."
            )
        return initializer

    with each_weight(counted):
        yield


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
