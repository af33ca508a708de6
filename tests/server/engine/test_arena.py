"""The memory that a worker and an engine share."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from glimpse.server.engine.arena import Arena, Layout, QueueState
from glimpse.server.processes.startup import MemoryShortError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

LAYOUT = Layout.of((5, 3, 3), {"probabilities": (10,), "embedding": (2, 3)}, (1, 2, 4))


def open_arenas() -> int:
    links = list(Path("/proc/self/fd").iterdir())
    return sum("glimpse-arena" in str(each.readlink()) for each in links if each.is_symlink())


def test_both_ends_see_the_same_and_no_slot_touches_another() -> None:
    ours = Arena.make(LAYOUT, 4)
    theirs = Arena(os.dup(ours.file), LAYOUT, 4)
    for slot in range(4):
        ours.pixels[slot] = slot + 1
        for name in theirs.outputs:
            theirs.outputs[name][slot] = 10 * slot
    for slot in range(4):
        assert theirs.pixels[slot].tolist() == np.full((5, 3, 3), slot + 1).tolist()
        assert ours.outputs["embedding"][slot].tolist() == np.full((2, 3), 10 * slot).tolist()
        assert ours.outputs["probabilities"][slot].tolist() == [10 * slot] * 10
    ours.close()
    theirs.close()


def test_the_state_of_the_queue_arrives_and_is_forgotten() -> None:
    ours = Arena.make(LAYOUT, 1)
    state = QueueState(waiting=5, parties=2, stuck=True, seconds=(0.5, 0.75, 1.0))
    ours.publish(state)
    assert ours.state() == state
    ours.clear()
    assert ours.state() == QueueState()
    ours.close()


def test_all_of_the_memory_is_taken_when_it_is_made() -> None:
    arena = Arena.make(LAYOUT, 64)
    assert os.fstat(arena.file).st_blocks * 512 >= LAYOUT.size(64)
    arena.close()


def test_too_little_memory_is_refused_with_what_to_do() -> None:
    with pytest.raises(MemoryShortError, match=r"4000000000 images .* take \d+ MiB .* GLIMPSE_MAX_IMAGES_IN_FLIGHT"):
        Arena.make(LAYOUT, 4_000_000_000)


def test_a_file_that_may_shrink_or_has_another_size_is_refused() -> None:
    ours = Arena.make(LAYOUT, 4)
    with pytest.raises(ValueError, match="sealed"):
        Arena(ours.file, LAYOUT, 5)
    with pytest.raises(PermissionError):
        os.ftruncate(ours.file, 1)
    ours.close()


def test_the_memory_is_free_when_nobody_uses_an_array_of_it() -> None:
    gc.collect()  # those of other tests
    before = open_arenas()
    arena = Arena.make(LAYOUT, 4)
    kept = arena.pixels[2]
    arena.close()
    del arena
    gc.collect()
    kept[:] = 7  # still mapped
    assert open_arenas() > before
    del kept
    gc.collect()
    assert open_arenas() == before
