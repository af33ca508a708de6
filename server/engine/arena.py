"""Memory that a worker and an engine share: a slot for each image, with its pixels and room for its outputs.

It lies in a file in memory without a name, which is freed when the last process that holds it has ended, however that
ends, and which does not depend on the size of /dev/shm. All of it is taken from the system when it is made: a file with
holes would be filled at the first touch of each page, and where there is no memory then, the process is killed.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from glimpse.server.processes.startup import MemoryShortError
from glimpse.server.runtime import memory_budget

_ALIGNED = 64  # bytes: a line of the processor's cache, so that neighbours do not slow one another down
_SEALS = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW of <fcntl.h>
_STATE = struct.Struct("=qqqq")  # images that wait, parties of them, whether there is trouble, how many times follow


@dataclass(frozen=True)
class Layout:
    """Where everything is in an arena, for one model; the same in both processes."""

    pixels_shape: tuple[int, ...]  # [H, W, C], uint8
    outputs: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape for one image, float32, by name
    batch_sizes: tuple[int, ...]  # for which times are published

    @classmethod
    def of(
        cls, pixels_shape: tuple[int, ...], outputs: Mapping[str, tuple[int, ...]], batch_sizes: tuple[int, ...]
    ) -> Self:
        """That of a model with these outputs, by name with the shape for one image."""
        return cls(pixels_shape, tuple(sorted(outputs.items())), batch_sizes)

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of a slot: its outputs and its pixels."""
        return self.outputs_bytes + math.prod(self.pixels_shape)

    @cached_property
    def outputs_bytes(self) -> int:
        """Bytes of the outputs of a slot."""
        return sum(_aligned(4 * math.prod(shape)) for _, shape in self.outputs)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of the state of the queue, which stands before the slots."""
        return -(-(_STATE.size + 8 * len(self.batch_sizes)) // mmap.PAGESIZE) * mmap.PAGESIZE

    def size(self, slots: int) -> int:
        """Bytes of an arena with so many slots."""
        return self.pixels_offset(slots) + slots * math.prod(self.pixels_shape)

    def pixels_offset(self, slots: int) -> int:
        """Where the pixels of all slots begin, behind the outputs of all."""
        return self.state_bytes + -(-slots * self.outputs_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


class QueueState(NamedTuple):
    """What an engine tells all workers of its queue."""

    waiting: int = 0  # images of all workers
    parties: int = 0  # that they belong to
    stuck: bool = False  # the device does not respond
    seconds: tuple[float, ...] = ()  # for so many images as each batch size has, by batch size


class Arena:
    """The slots, mapped into this process. They stay mapped until nobody refers to an array of theirs."""

    def __init__(self, file: int, layout: Layout, slots: int) -> None:
        """Map a file that holds such an arena; the descriptor belongs to the arena from now on.

        Raises:
            ValueError: the file is not one that `make` made with the same layout.
            OSError: it cannot be mapped.
        """
        self.layout, self.slots = layout, slots
        self._file = file
        import fcntl  # here, as below: a server of one process imports this file, also where there is none

        size = layout.size(slots)
        seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        found = os.fstat(file).st_size
        if seals & _SEALS != _SEALS or found != size:
            raise ValueError(f"an arena of {slots} slots has {size} bytes, sealed. Received: {found}, seals {seals:#x}")
        self._memory = memory = mmap.mmap(file, size)
        # Without gaps, so that NumPy gathers those of many slots with one call.
        self.pixels: NDArray[np.uint8] = np.ndarray(  # [slots, H, W, C]
            (slots, *layout.pixels_shape), np.uint8, memory, layout.pixels_offset(slots)
        )
        stride, offset = layout.outputs_bytes, layout.state_bytes
        self.outputs: dict[str, NDArray[np.float32]] = {}  # [slots, ...] each
        for name, shape in layout.outputs:
            self.outputs[name] = np.ndarray(
                (slots, *shape), np.float32, memory, offset, (stride, *np.empty(shape, np.float32).strides)
            )
            offset += _aligned(4 * math.prod(shape))
        self._times = struct.Struct(f"={len(layout.batch_sizes)}d")

    @classmethod
    def make(cls, layout: Layout, slots: int) -> Self:
        """Make one, with all the memory that it may ever take.

        Raises:
            MemoryShortError: expected; there is not so much.
        """
        import fcntl

        size = layout.size(slots)
        budget = memory_budget.available()
        if budget is not None and size > budget.free:
            raise MemoryShortError(_short(size, slots, f"{budget.free >> 20} MiB are free ({budget.limit})"))
        file = os.memfd_create("glimpse-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(file, 0, size)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            return cls(file, layout, slots)
        except (OSError, MemoryError) as error:
            os.close(file)
            raise MemoryShortError(_short(size, slots, f"the system refuses: {error}")) from error
        except BaseException:
            os.close(file)
            raise

    @property
    def file(self) -> int:
        """The descriptor, to be sent to the other process."""
        return self._file

    def publish(self, state: QueueState) -> None:
        """Write the state of the queue; by the engine. Whoever reads meanwhile may find some of it older."""
        waiting, parties, stuck, seconds = state
        _STATE.pack_into(self._memory, 0, waiting, parties, stuck, len(seconds))
        if seconds:
            self._times.pack_into(self._memory, _STATE.size, *seconds)

    def state(self) -> QueueState:
        """What the engine has published last."""
        waiting, parties, stuck, times = _STATE.unpack_from(self._memory)
        seconds = self._times.unpack_from(self._memory, _STATE.size) if times else ()
        return QueueState(waiting, parties, bool(stuck), seconds)

    def clear(self) -> None:
        """Forget what an engine has published that is gone."""
        _STATE.pack_into(self._memory, 0, 0, 0, 0, 0)

    def close(self) -> None:
        """Give up the descriptor; the memory is free when nobody refers to an array of it, here and in the engine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _short(size: int, slots: int, what: str) -> str:
    return (
        f"The {slots} images that a worker may have in flight take {max(1, size >> 20)} MiB of shared memory, but "
        f"{what}. Allow more memory, or lower GLIMPSE_MAX_IMAGES_IN_FLIGHT or GLIMPSE_WORKERS."
    )
