"""Batch normalisation for training: one operation on TensorFlow, and moving statistics that suit short runs anywhere.

On a CPU, the ten operations that Keras takes on TensorFlow are half of the time of a training step.

The moving statistics follow the first steps more closely than Keras', which begin at mean 0 and variance 1 and forget
that over many hundreds of steps: a deep network that has been trained for 200 steps answers all images alike with them,
although it has learned. On TensorFlow the momentum grows with the steps that were made. On JAX a compiled step cannot
read the optimizer's counter, so that on other backends the momentum is the one that suits the whole run.
"""

from __future__ import annotations

from typing import Any

import keras


class BatchNormalization(keras.layers.BatchNormalization):
    """The same layer, weights and arithmetic; training steps run TensorFlow's fused kernel.

    The moving variance is the unbiased one (times n / (n - 1) over the batch and all positions), which is how the
    kernel gives it. The class has the name of Keras' own because checkpoints go by it.
    """

    steps: Any = None  # variable that counts the training steps; None: the momentum is the same in all of them

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001 - Keras' signature
        """Normalise ``[N, H, W, C]`` over N, H and W in training, by the moving statistics otherwise."""
        if not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        moving = tf.convert_to_tensor(self.moving_mean)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(moving),
            tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(moving),
            epsilon=self.epsilon,
            is_training=True,
        )
        momentum = self.momentum
        if self.steps is not None:
            # As `momentum_after`; after 890 steps it is Keras' own 0.99.
            done = tf.cast(tf.convert_to_tensor(self.steps), tf.float32)
            momentum = tf.minimum(momentum, (1 + done) / (10 + done))
        for kept, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(kept * momentum + now * (1 - momentum))
        return outputs


def fuse(model: keras.Model, steps: Any = None, *, total: int | None = None) -> None:
    """Prepare every batch normalisation of a training graph, nested models included, for the training.

    The graph must not be saved afterwards, only its weights.

    Args:
        model: the training graph.
        steps: variable that counts the training steps, the optimizer's; see `BatchNormalization`.
        total: training steps of the whole run, to which the momentum of all other normalisations is suited: those of
            other backends, and those behind dense layers; None: it stays as it is.
    """
    tensorflow = keras.backend.backend() == "tensorflow"
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            fuse(layer, steps, total=total)
        elif type(layer) is not keras.layers.BatchNormalization:
            continue
        elif tensorflow and layer.axis in (-1, 3) and layer.input_spec.ndim == 4:
            layer.__class__ = BatchNormalization
            # Not through Keras' own attributes, which would make the counter a weight of the layer.
            object.__setattr__(layer, "steps", steps)
        elif total is not None:
            layer.momentum = min(layer.momentum, momentum_after(total))


def momentum_after(steps: int) -> float:
    """The momentum of TensorFlow's ExponentialMovingAverage after so many updates; from 890 on above Keras' 0.99."""
    return (1 + steps) / (10 + steps)
