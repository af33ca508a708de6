"""A network as a program of JAX: traced from Keras' layers once, for all batch sizes, and kept for later starts.

What is kept is a program in StableHLO (`jax.export`) and the values of its variables. XLA's own cache has what is
compiled of it for each batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import structlog
from jax import export
from safetensors.numpy import load_file

from glimpse.models.files import bounded_files
from glimpse.models.map_rows import Head
from glimpse.models.messages import short
from glimpse.models.outputs import INNER
from glimpse.server.runtime import kept_network
from glimpse.server.runtime.kept_network import KeptNetwork
from glimpse.server.runtimes import Precision

if TYPE_CHECKING:
    import keras

# (the values of the variables, uint8 [N, H, W, C]) -> outputs by name, float32 [N, ...] each
Program = Callable[[list[Any], Any], dict[str, jax.Array]]

_STATE, _FORWARD, _WITH_INNER = "state.safetensors", "forward.bin", "with_inner.bin"
_PROGRAM_BYTES = 64 << 20  # of thousands of layers
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Traced:
    """A network without its layers."""

    names: tuple[str, ...]  # of all outputs
    maps_head: Head | None
    state: list[Any]  # values of the variables, which the programs are given
    forward: Program  # all outputs but those within the network
    with_inner: Program
    exported: Mapping[str, export.Exported | Callable[[], export.Exported]]  # by file; empty: it cannot be kept


def trace(model: keras.Model, precision: Precision) -> Traced:
    """The program of a serving model, which computes in `precision` from then on.

    For each batch size anew going through Keras' layers takes longer than to fetch the compiled program. A network with
    a layer that needs to know how many images there are is traced for each size, and cannot be kept.
    """
    from glimpse.models.serving import by_name
    from glimpse.server.runtime.precision import compute_in

    compute_in(model, precision)
    trainable = [variable.value for variable in model.trainable_variables]
    state = [*trainable, *[variable.value for variable in model.non_trainable_variables]]

    def with_inner(state: list[Any], pixels: Any) -> dict[str, jax.Array]:
        parts = state[: len(trainable)], state[len(trainable) :]
        # Else a GPU rounds the factors of every float32 product to 10 bits.
        with jax.default_matmul_precision("float32"):
            return by_name(model, model.stateless_call(*parts, pixels, training=False)[0])

    def forward(state: list[Any], pixels: Any) -> dict[str, jax.Array]:
        return {name: each for name, each in with_inner(state, pixels).items() if name not in INNER}

    def exported(function: Program) -> export.Exported:
        shapes = jax.tree.map(lambda values: jax.ShapeDtypeStruct(values.shape, values.dtype), state)
        pixels = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *model.input_shape[1:]), np.uint8)
        return export.export(jax.jit(function))(shapes, pixels)

    names, maps_head = tuple(model.output_names), getattr(model, "maps_head", None)
    try:
        found = exported(forward)
    except Exception as error:  # noqa: BLE001 - of many kinds, by what the layer does with the number
        _log.debug("traced for each batch size", detail=short(error))
        return Traced(names, maps_head, state, forward, with_inner, {})
    files = {_FORWARD: found} | ({_WITH_INNER: lambda: exported(with_inner)} if INNER & set(names) else {})
    return Traced(names, maps_head, state, found.call, with_inner, files)


def save(traced: Traced, folder: Path) -> dict[str, Any] | None:
    """Write a program into files of `folder`; returns what `read` has to know beside them. None: it cannot be kept."""
    if not traced.exported:
        return None
    try:
        for name, each in traced.exported.items():
            found = each if isinstance(each, export.Exported) else each()
            (folder / name).write_bytes(found.serialize())
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds, by what the network consists of
        _log.info("network not kept", detail=short(error))
        return None
    arrays = {_variable(number): np.asarray(each) for number, each in enumerate(traced.state)}
    kept_network.save_arrays(arrays, folder / _STATE)
    return {**kept_network.save_outputs(traced.names, traced.maps_head, folder), "variables": len(traced.state)}


def read(kept: KeptNetwork) -> Traced:
    """What `save` has written.

    Raises:
        ValueError: it is something else.
        OSError: it cannot be read.
        MemoryError: there was not enough.
    """
    with kept_network.reading():
        names, maps_head = kept_network.read_outputs(kept)
        arrays = load_file(kept.folder / _STATE)
        state = [arrays[_variable(number)] for number in range(kept.facts["variables"])]
        forward, with_inner = (
            export.deserialize(bytearray(bounded_files.read(kept.folder / name, _PROGRAM_BYTES)))
            if name in kept.hashes
            else None
            for name in (_FORWARD, _WITH_INNER)
        )
        if forward is None:
            raise ValueError("the program is missing")
    inner = forward if with_inner is None else with_inner
    return Traced(names, maps_head, state, forward.call, inner.call, {})


def _variable(number: int) -> str:
    return f"variables/{number}"
