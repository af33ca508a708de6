"""The JAX runtime: Keras on JAX, compiled by XLA for each batch size."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import structlog
from jax import export
from numpy.typing import NDArray

from glimpse.models.messages import short
from glimpse.models.outputs import INNER, Outputs
from glimpse.models.published import FetchError, cache_folder
from glimpse.models.serving import by_name
from glimpse.server import cores
from glimpse.server.runtime import OneStream, stated
from glimpse.server.runtime.precision import compute_in
from glimpse.server.runtimes import Precision
from glimpse.server.settings.kinds import PrecisionChoice

_log = structlog.get_logger(__name__)


class JaxRuntime(OneStream):
    """Runs a serving model on JAX's first device."""

    name = "jax"

    def __init__(self, model: keras.Model, precision: PrecisionChoice = "auto") -> None:
        """Make `model`, uint8 ``[N, H, W, C]`` -> its named outputs, float32, a compiled function.

        Args:
            model: as `models.serving` makes it; bfloat16 is set in its layers.
            precision: ``auto`` is bfloat16 on a GPU that multiplies in it and on a TPU, float32 elsewhere.
        """
        keep_compiled()
        device = jax.devices()[0]
        # On a GPU one batch is copied while another computes; a CPU has no engine for copies beside its cores.
        self.streams = 2 if device.platform == "gpu" else 1
        self.device = "cpu" if device.platform == "cpu" else f"{device.platform}:{device.id}"
        self.precision = self.resolve(precision)
        compute_in(model, self.precision)
        # Arguments, not constants of the program: XLA would spend minutes on folding them.
        self._state = jax.device_put(
            (
                [variable.value for variable in model.trainable_variables],
                [variable.value for variable in model.non_trainable_variables],
            ),
            device,
        )

        def with_inner(state: tuple[list[jax.Array], list[jax.Array]], pixels: jax.Array) -> dict[str, jax.Array]:
            # Else a GPU rounds the factors of every float32 product to 10 bits.
            with jax.default_matmul_precision("float32"):
                return by_name(model, model.stateless_call(*state, pixels, training=False)[0])

        def forward(state: tuple[list[jax.Array], list[jax.Array]], pixels: jax.Array) -> dict[str, jax.Array]:
            return {name: each for name, each in with_inner(state, pixels).items() if name not in INNER}

        self.outputs = self._named(model)
        # What XLA computes is what is asked for: with the feature map, or statistics, only where they are.
        self._forward, self._with_inner = self._traced_once(forward, model), jax.jit(with_inner)

    def _traced_once(self, function: Callable[..., dict[str, jax.Array]], model: keras.Model) -> Any:
        """A compiled function of the state and of any number of pixels that goes through Keras' layers here alone.

        For each batch size anew that takes longer than to fetch the compiled program. A network with a layer that
        needs to know how many images there are is traced for each size.
        """
        compiled = jax.jit(function)
        state = jax.tree.map(lambda values: jax.ShapeDtypeStruct(values.shape, values.dtype), self._state)
        try:
            pixels = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *model.input_shape[1:]), np.uint8)
            return jax.jit(export.export(compiled)(state, pixels).call)
        except Exception as error:  # noqa: BLE001 - of many kinds, by what the layer does with the number
            _log.debug("traced for each batch size", detail=short(error))
            return compiled

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
        return super().processor() if device.platform == "cpu" else str(device.device_kind)

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
