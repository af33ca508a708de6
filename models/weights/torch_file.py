"""PyTorch's files, read without PyTorch: zip archives of version 1.6 and later, and the older form.

Such a file pickles a dictionary of tensors. Each tensor refers to a storage, whose data is kept beside the pickle.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from glimpse.models.weights.archive import Archive
from glimpse.models.weights.contents import Contents
from glimpse.models.weights.dtypes import width
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.pickled import PickleError
from glimpse.models.weights.state_dicts import state_dicts
from glimpse.models.weights.torch_tensors import SHOWN, Checkpoint, array, fill

# The beginning of a file of the older form: its magic number, pickled.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
_ADVICE = "Save the tensors alone, with torch.save(model.state_dict(), path), or as safetensors."


def read_zip(archive: Archive, path: Path) -> Contents:
    """The tensors of a file that torch.save wrote since version 1.6."""
    pickled = next(name for name in archive.names if is_pickle(name))
    folder = pickled.removesuffix("data.pkl")
    data = archive.view(pickled)
    swapped = f"{folder}byteorder" in archive.names and bytes(archive.view(f"{folder}byteorder")) == b"big"

    def read(checkpoint: Checkpoint) -> object:
        made = checkpoint.read(io.BytesIO(data))
        for storage in checkpoint.storages.values():
            fill(storage, archive.view(f"{folder}data/{storage.key}"), swapped=swapped)
        return made

    return _tensors(read, path)


def is_pickle(name: str) -> bool:
    """Whether a member of an archive is the dictionary that torch.save wrote: ``<anything>/data.pkl``."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def read_legacy(data: mmap.mmap, path: Path) -> Contents:
    """The tensors of a file that torch.save wrote before version 1.6, or later in the older form.

    Args:
        data: all of the file; it is read as a file is.
        path: of it, for messages.
    """

    def read(checkpoint: Checkpoint) -> object:
        stream: Any = data
        stream.seek(0)
        checkpoint.read(stream)  # the magic number, by which the format was detected
        protocol = checkpoint.read(stream)
        if not isinstance(protocol, int) or protocol != _LEGACY_PROTOCOL:
            shown = str(protocol) if isinstance(protocol, int) and abs(protocol) < 1 << 62 else type(protocol).__name__
            raise PickleError(f"an unknown form of the file, {shown}")
        checkpoint.read(stream)  # what machine wrote it; numbers are little-endian on every machine
        made = checkpoint.read(stream)
        keys = checkpoint.read(stream)
        if (
            not isinstance(keys, list)
            or not all(isinstance(key, str) for key in keys)
            or len(keys) > len(checkpoint.storages)
            or set(keys) != checkpoint.storages.keys()
        ):
            raise PickleError("a list of storages that is not that of its tensors")
        rest = memoryview(data)[stream.tell() :]
        for key in keys:
            storage = checkpoint.storages[key]
            end = 8 + storage.count * width(storage.dtype)
            if len(rest) < 8 or int.from_bytes(rest[:8], "little") != storage.count:
                raise PickleError(f"another number of numbers for storage {key[:SHOWN]!r}")
            fill(storage, rest[8:end], swapped=False)
            rest = rest[end:]
        return made

    return _tensors(read, path)


def _tensors(read: Callable[[Checkpoint], object], path: Path) -> Contents:
    try:
        made = read(Checkpoint())
        sets = [
            Contents({name: array(tensor) for name, tensor in tensors.items()}, place=place)
            for place, tensors in state_dicts(made)
        ]
    except PickleError as error:
        raise WeightsError(f"{path} is not a PyTorch file of tensors: it holds {error}. {_ADVICE}") from error
    if not sets:
        raise WeightsError(f"{path} is a PyTorch file without named tensors. {_ADVICE}")
    return replace(sets[0], others=tuple(sets[1:]))
