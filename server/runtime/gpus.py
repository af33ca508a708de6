"""Whether a framework sees a GPU. Only the framework can tell, so each function imports its own, and none Keras."""

from __future__ import annotations

from importlib import metadata

from glimpse.server.runtimes import RUNTIMES, RuntimeRow


def is_for_cpus(row: RuntimeRow) -> bool:
    """Whether a runtime is installed as a build for CPUs alone, as far as packages tell."""
    if "tensorflow-cpu" not in row.distributions:
        return False
    try:
        metadata.version("tensorflow-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def tensorflow_sees_gpu() -> bool:
    """Whether TensorFlow does; its build for CPUs is not asked, which would take seconds."""
    if is_for_cpus(RUNTIMES["tensorflow"]):
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def jax_sees_gpu() -> bool:
    """Whether JAX computes on a GPU unless told otherwise."""
    import jax

    return jax.default_backend() == "gpu"


def torch_sees_gpu() -> bool:
    """Whether PyTorch has a GPU of NVIDIA's, or of AMD's, at hand."""
    import torch

    return torch.cuda.is_available()
