"""Which runtime computes: the one that is named, or the fastest that is installed for the device."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from glimpse.server.runtime import UnsupportedNetworkError
from glimpse.server.runtime.candidate import Built, Candidate
from glimpse.server.runtime.network import Network
from glimpse.server.settings.kinds import Precision, RuntimeName

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class _Row(NamedTuple):
    packages: tuple[str, ...]  # that it needs
    extra: str  # of ours, which installs them
    backend: str  # of Keras, which builds the network


_ROWS = {
    "tensorflow": _Row(("tensorflow",), "server", "tensorflow"),
    "openvino": _Row(("openvino", "tensorflow"), "server", "tensorflow"),
    "jax": _Row(("jax",), "jax", "jax"),
    "torch": _Row(("torch",), "torch", "torch"),
}
# What `auto` takes, best first. On a CPU OpenVINO takes 0.44 to 0.89 of TensorFlow's processor time, by network and
# batch size; the last two are for an installation without TensorFlow, and of them JAX computes faster but starts
# slower. OpenVINO has no build for CUDA; there TensorFlow is what our `gpu` installs. No order on GPUs was measured.
_ON_CPU: tuple[RuntimeName, ...] = ("openvino", "tensorflow", "jax", "torch")
_ON_GPU: tuple[RuntimeName, ...] = ("tensorflow", "jax", "torch")


def choose(wanted: RuntimeName) -> tuple[RuntimeName, ...]:
    """The runtimes to build with, best first, and Keras told of their backend; call it before Keras is imported.

    A name stands for itself alone; ``auto`` for what is installed and builds on the same backend as the first.

    Raises:
        ValueError: it is not installed.
    """
    if wanted == "auto":
        found = _installed_on_gpu() or tuple(name for name in _ON_CPU if not _missing(name))
        if not found:
            raise ValueError("No runtime is installed. Install one with pip install 'glimpse-serve[server]'")
    else:
        if missing := _missing(wanted):
            raise ValueError(
                f"The runtime {wanted} needs {' and '.join(missing)}, which is not installed. Install it with pip "
                f"install 'glimpse-serve[{_ROWS[wanted].extra}]', or set GLIMPSE_RUNTIME to auto."
            )
        found = (wanted,)
    backend = _ROWS[found[0]].backend
    os.environ["KERAS_BACKEND"] = backend
    if "keras" in sys.modules and (loaded := sys.modules["keras"].backend.backend()) != backend:
        raise ValueError(f"The runtime {found[0]} needs Keras on {backend}; this process has loaded it on {loaded}.")
    return tuple(name for name in found if _ROWS[name].backend == backend)


def build(names: tuple[RuntimeName, ...], network: Network, *, precision: Precision, largest: int = 0) -> Built:
    """The first of the runtimes that can compute the network; a warning says why a better one is passed over.

    A reduced precision is compared with float32 first, see `server.runtime.agreement`: ``auto`` takes it only where it
    gives the same answers, and one that is stated is taken with a warning.

    Args:
        names: from `choose`.
        network: what is to be computed.
        precision: the one that is stated, or ``auto``.
        largest: images in the largest batch; 0: what suits the runtime and the network.

    Raises:
        UnsupportedNetworkError: none of them can.
        MemoryError: there was not enough.
        ValueError, OSError: the precision is not to be had on this device, or the bundle cannot be used.
    """
    return first(names, lambda name: Candidate(name, network, largest).in_precision(precision))


def first(names: tuple[RuntimeName, ...], attempt: Callable[[RuntimeName], T]) -> T:
    """What `attempt` gives for the first of the runtimes that can; a warning says why a better one is passed over.

    Raises:
        UnsupportedNetworkError: none of them can.
    """
    for name, following in zip(names, [*names[1:], None], strict=True):
        try:
            return attempt(name)
        except UnsupportedNetworkError as error:
            if following is None:
                raise
            _log.warning("slower runtime", runtime=following, instead_of=name, detail=str(error))
    raise ValueError("No runtime was named.")


def _missing(name: RuntimeName) -> tuple[str, ...]:
    return tuple(package for package in _ROWS[name].packages if find_spec(package) is None)


def _installed_on_gpu(driver: Path = Path("/proc/driver/nvidia/version")) -> tuple[RuntimeName, ...]:
    """Runtimes that see a GPU. Only the framework can tell, so it is asked, where there is a driver for one at all."""
    if not driver.exists():
        return ()
    return next(((name,) for name in _ON_GPU if not _missing(name) and _sees_gpu(name)), ())


def _sees_gpu(name: RuntimeName) -> bool:
    if name == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if name == "torch":
        import torch

        return torch.cuda.is_available()
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.version("tensorflow-cpu")
        return False  # that build never does, and to ask it would take seconds
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
