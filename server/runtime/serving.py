"""Serve: from an imported model to a runtime that has computed every batch size and given the recorded answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import structlog

from glimpse.models.outputs import PROBABILITIES
from glimpse.server.machine import gpus
from glimpse.server.nouns import noun
from glimpse.server.processes.startup import GoldenError
from glimpse.server.progress import Progress, untold
from glimpse.server.runtime import (
    Runtime,
    batch_rates,
    builder,
    errors_as_unsupported,
    importing,
    memory_budget,
    stream_rates,
)
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.golden_check import GoldenCheck
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtime.int8_trial import Given
from glimpse.server.runtimes import REFERENCE
from glimpse.server.settings.kinds import PrecisionChoice

_LOADERS = 4  # batch sizes whose programs are loaded at once
_log = structlog.get_logger(__name__)


class ServedModel(NamedTuple):
    """A runtime that is ready for its first caller."""

    runtime: Runtime
    agreement: Agreement | None  # of the reduced precision with float32; None: none was considered
    batch_sizes: tuple[int, ...]  # that it is warm for, rising


def serve(
    imported: ImportedModel,
    golden: GoldenCheck,
    *,
    precision: PrecisionChoice,
    largest: int = 0,
    streams: int = 0,
    given: Given | None = None,
    progress: Progress = untold,
) -> ServedModel:
    """Build the runtime of an imported model, warm it, and compare its answers with the recorded ones.

    Args:
        imported: what is to be computed.
        golden: of its bundle.
        precision: the one that is stated; ``auto``: the fastest that gives the answers of float32, and the recorded.
        largest: images in the largest batch; 0: what suits the runtime and the network.
        streams: batches that are computed side by side, of a runtime that can be told; 0: what suits it.
        given: what quantising depends on.
        progress: is told what is being done.

    Raises:
        GoldenError: expected; its answers are not the recorded ones, and in float32 they would not be either.
        UnsupportedNetworkError: the runtime cannot compute the network; another one may.
        MemoryError: there was not enough.
        ValueError: the precision is not to be had on this device, or int8 is stated and does not earn its place.
    """

    def served(runtime: Runtime, agreement: Agreement | None) -> ServedModel:
        sizes = _warm(runtime, imported, golden, largest, streams, progress)
        importing.keep(imported, runtime)
        return ServedModel(runtime, agreement, sizes)

    # A process that quantises has a limit of its own.
    limited = not builder.may_quantise(imported, precision)
    progress(f"build the network with {imported.row.name}", limited=limited)
    runtime, agreement = builder.build(imported, precision=precision, largest=largest, given=given)
    try:
        return served(runtime, agreement)
    except GoldenError as error:
        if precision != "auto" or runtime.precision == REFERENCE:
            raise
        _log.warning("precision falls back", precision=REFERENCE, instead_of=runtime.precision, detail=str(error))
    del runtime  # two at a time would take twice the memory
    progress(f"build the network with {imported.row.name}, in {REFERENCE}")
    runtime, _ = builder.build(imported, precision=REFERENCE)
    return served(runtime, agreement)


def _warm(  # noqa: PLR0917 - what `serve` was given
    runtime: Runtime, imported: ImportedModel, golden: GoldenCheck, largest: int, streams: int, progress: Progress
) -> tuple[int, ...]:
    """Run every batch size on every stream, so that no caller pays for a first time (optimising, compiling).

    What comes out is looked at, so that the golden check costs no time of its own. On a GPU the sizes are those that
    their measured rates recommend, see `server.runtime.batch_rates`, and so are the streams and the largest size on a
    CPU, see `server.runtime.stream_rates`: at the first start, which keeps them for the others.

    Returns:
        The batch sizes.
    """
    multiply_adds = imported.summary.multiply_adds
    sizes = runtime.batch_sizes(largest, multiply_adds)
    check = partial(golden.check, runtime=runtime.name, precision=runtime.precision)
    # Each is put together once: for a fast GPU that takes as long as computing it, and it is the device that is timed.
    batch = cache(golden.batch)

    def facts() -> dict[str, Any]:
        return importing.follows_from(imported.bundle, imported.row, runtime.precision)

    def compute(size: int) -> object:
        progress(f"measure batches of {size} {noun(size, 'image')}")
        return runtime(batch(size))

    def load(size: int) -> None:
        progress(f"load what computes batches of {size} {noun(size, 'image')}")
        runtime(batch(size))

    def stream(number: int) -> None:
        # Every second one from the other end: at the same size, two threads would compile it at once, each for itself.
        for size in reversed(sizes) if number % 2 else sizes:
            progress(f"compute batches of {size} {noun(size, 'image')}")
            check(runtime(batch(size))[PROBABILITIES])

    with errors_as_unsupported(f"{runtime.name} cannot compute this network"):
        try:
            progress("compute the first image", warms=True)
            check(runtime.alone(batch(1))[PROBABILITIES])
            if runtime.device.startswith("gpu"):
                sizes = batch_rates.useful_sizes_kept(
                    compute,
                    sizes,
                    may_grow=not largest,
                    out_of_memory=runtime.out_of_memory,
                    follows_from=facts(),
                )
                _log.info("batch sizes measured", sizes=sizes, device=runtime.device)
                # What an earlier start has compiled is loaded side by side, which mostly needs no lock of Python's. The
                # largest of them take as much memory as two batches in flight will.
                with ThreadPoolExecutor(_LOADERS) as threads:
                    list(threads.map(load, reversed(sizes)))
            elif isinstance(runtime, stream_rates.Adjustable):
                progress("measure streams and batch sizes", limited=False)  # it has a limit of its own
                sizes = stream_rates.adjust(
                    runtime,
                    batch,
                    stated=stream_rates.Shape(streams, largest),
                    multiply_adds=multiply_adds,
                    spare=lambda: not memory_budget.lack_for_another(imported.bundle, imported.row),
                    follows_from=facts(),
                )
            with ThreadPoolExecutor(runtime.streams) as threads:
                list(threads.map(stream, range(runtime.streams)))
        except Exception as error:
            if runtime.out_of_memory(error):
                raise MemoryError(
                    f"A batch of up to {sizes[-1]} {noun(sizes[-1], 'image')} did not fit into the memory of "
                    f"{whose_memory(runtime.device)}"
                ) from error
            raise
    return sizes


def whose_memory(device: str) -> str:
    """Whose memory a runtime computes in, for the end of a sentence; of a GPU also what it has, if it can be asked."""
    if not device.startswith("gpu"):
        return "this machine or container."
    memory = gpus.memory()
    return "the GPU, not of the machine." + (f" {memory}" if memory is not None else "")
