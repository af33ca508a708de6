"""The JAX runtime: a network of Keras on JAX, compiled by XLA for each batch size."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import INNER, Outputs
from glimpse.models.published import FetchError, cache_folder
from glimpse.server.machine import cores
from glimpse.server.runtime import OneStream, jax_program, outputs_with, stated
from glimpse.server.runtime.kept_network import KeptNetwork
from glimpse.server.runtimes import GPU_STREAMS, Precision
from glimpse.server.settings.kinds import PrecisionChoice

if TYPE_CHECKING:
    import keras


class JaxRuntime(OneStream):
    """Runs a network on JAX's first device: a serving model of Keras, or what an earlier start has traced of one."""

    name = "jax"

    def __init__(self, network: keras.Model | KeptNetwork, precision: PrecisionChoice = "auto") -> None:
        """Make a network, uint8 ``[N, H, W, C]`` -> its named outputs, float32, a compiled function.

        Args:
            network: a model as `models.serving` makes it; bfloat16 is set in its layers. Or one that was kept, in that
                precision, which needs no Keras.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it and on a TPU, float32 elsewhere.

        Raises:
            ValueError, OSError: what was kept cannot be read.
        """
        keep_compiled()
        device = jax.devices()[0]
        # A CPU has no engine for copies beside its cores.
        self.streams = GPU_STREAMS if device.platform == "gpu" else 1
        self.device = "cpu" if device.platform == "cpu" else f"{device.platform}:{device.id}"
        self.precision = self.resolve(precision)
        kept = isinstance(network, KeptNetwork)
        traced = jax_program.read(network) if kept else jax_program.trace(network, self.precision)
        self._unkept = None if kept else traced
        self.outputs, self.maps_head = outputs_with(traced.names, traced.maps_head), traced.maps_head
        # Arguments, not constants of the program: XLA would spend minutes on folding them.
        self._state = jax.device_put(traced.state, device)
        # What XLA computes is what is asked for: with the feature map, or statistics, only where they are.
        self._forward, self._with_inner = jax.jit(traced.forward), jax.jit(traced.with_inner)

    def save(self, folder: Path) -> dict[str, Any] | None:
        """Write the traced network into files of an empty folder, see `kept_network.Keepable`."""
        found, self._unkept = self._unkept, None  # it holds the model
        return None if found is None else jax_program.save(found, folder)

    @classmethod
    def resolve(cls, precision: PrecisionChoice) -> Precision:
        """In which precision it computes when told `precision`: ``auto`` is the fastest that the device has."""
        if precision != "auto":
            return stated(precision, cls.name)
        return "bfloat16" if _multiplies_bfloat16(jax.devices()[0]) else "float32"

    @classmethod
    def processor(cls) -> str:
        """What computes; on equal ones the answers are equal."""
        device = jax.devices()[0]
        found = super().processor() if device.platform == "cpu" else str(device.device_kind)
        # With JAX_ENABLE_X64 programs are traced to other types. No other setting of JAX or XLA was found to change the
        # program; what they change of its compiled form is in the key of XLA's own cache.
        return f"{found}, 64 bits" if jax.config.jax_enable_x64 else found

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        # On a CPU JAX may compute on the caller's own memory; `asarray` waits for the result, so it is free then.
        found = (self._with_inner if outputs & INNER else self._forward)(self._state, pixels)
        for name in outputs:
            found[name].copy_to_host_async()
        return {name: np.asarray(found[name]) for name in outputs}

    def out_of_memory(self, error: Exception) -> bool:
        """Whether `error` says that the batch does not fit; XLA has one type for all errors."""
        exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
        return exhausted or super().out_of_memory(error)


def keep_compiled() -> None:
    """Keep what XLA compiles in GLIMPSE_CACHE, so that the starts after the first compile nothing.

    A folder that the user has named (JAX_COMPILATION_CACHE_DIR) stays; without a folder nothing is kept. Entries are
    found by a hash of the program, of its options and of the versions of JAX and XLA.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(FetchError, OSError):
        # What was compiled for one processor may use instructions that another one lacks.
        processor = hashlib.sha256(cores.processor().encode()).hexdigest()[:16]
        folder = cache_folder() / "jax" / processor
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Else only what took a second to compile is kept, and the small programs of a start add up to several.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _multiplies_bfloat16(device: Any) -> bool:
    """A TPU does, and of GPUs Ampere, compute capability 8.0, was the first to."""
    if device.platform == "gpu":
        return float(device.compute_capability) >= 8
    return device.platform == "tpu"
