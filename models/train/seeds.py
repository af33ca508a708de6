"""The random numbers that layers draw in training, such as what a dropout drops, in a run that is resumed.

Keras keeps the state of these numbers in variables that its checkpoints do not have.
"""

from __future__ import annotations

import keras
import numpy as np


def advance(model: keras.Model, steps: int) -> None:
    """Bring the random numbers of a model's layers to where they are after so many training steps.

    Args:
        model: as it was built; nested models are looked through, too. Each layer is called once in a step.
        steps: that were made with it, 0 for none.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            advance(layer, steps)
            continue
        drawn = getattr(layer, "seed_generator", None)
        if isinstance(drawn, keras.random.SeedGenerator):
            # The seed, and a count of the draws.
            state = np.array(keras.ops.convert_to_numpy(drawn.state))
            state[1] = steps
            drawn.state.assign(state)
