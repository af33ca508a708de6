"""Whether a network is compiled before it is run."""

from __future__ import annotations

import keras


def jit_compile() -> bool:
    """JAX always; TensorFlow with a GPU, by XLA; PyTorch and TensorFlow on a CPU not at all.

    With TensorFlow on a CPU, a network of depthwise convolutions takes 14 times as long when XLA has compiled it
    (MobileNetV2, two cores). `torch.compile` takes longer than what is computed here, which is a few batches, needs a
    C compiler, and fails at some of Keras' operations. What is told is never "auto": `keras.Model.jit_compile` takes
    any word for yes.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        return bool(backend == "jax")
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
