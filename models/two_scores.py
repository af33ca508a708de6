"""One score of two classes as two logits, whose softmax is what a sigmoid makes of the one; see `models.heads`."""

from __future__ import annotations

import keras


def of_one(model: keras.Model) -> keras.Model:
    """A network that gives z, the logit of the second class, ``[N, 1]``, as one that gives -z/2 and z/2, ``[N, 2]``.

    It shares the layers of `model`. Each of the layers behind it reads one tensor, so that whoever looks for the last
    layer with weights finds its way through them (`models.features`).
    """
    x = keras.layers.Reshape((1,), name="single_score")(model.outputs[0])
    x = keras.layers.RepeatVector(2, name="two_scores_repeat")(x)
    x = keras.layers.Flatten(name="two_scores_flat")(x)
    x = keras.layers.Rescaling(scale=[-0.5, 0.5], dtype="float32", name="two_scores")(x)
    return keras.Model(model.input, x, name=model.name)
