"""What lies where in an HDF5 file: a program of its own, which `models.weights.hdf5_file` runs.

The library behind h5py is C and not made against hostile files: damaged ones can make it loop for ever, take all
memory or crash. So it reads them in this process, which has limits and nothing to lose, and which tells only names,
shapes and places; whoever started it reads the numbers, and checks that they are within the file.

It follows no link out of the file, opens no other file and reads no dataset. Not imported by anything: it is run by its
path, with the file as standard input, and the member's name as its argument where the file is a zip archive.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import zipfile
from typing import IO, Any

_MEMORY = 4 << 30  # bytes of address space, most of it for libraries
_SECONDS = 20  # of computing
_OBJECTS = 200_000
_DEPTH = 32  # of groups; nested models are a few deep
_ATTRIBUTE = 1 << 20  # bytes; HDF5 itself keeps attributes below 64 KiB
# A long list is spread over layer_names0, 1, ...; the last is the graph of a whole model.
_ATTRIBUTES = ("layer_names", "weight_names", "name", "dtype", "model_config")


def limit() -> None:
    """Let the kernel end this process when it takes too much."""
    try:
        import resource
    except ImportError:  # Windows; there remains the time that is waited for it
        return
    for what, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        # Not every system has every limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def index(file: IO[bytes]) -> dict[str, Any]:
    """By path, every group with its texts and its members: groups are True, datasets are told, others are None."""
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(file, "r") as root:
        waiting, seen, objects = [("", root)], set(), 0
        while waiting:
            path, group = waiting.pop()
            info = h5py.h5o.get_info(group.id)
            # A group may be linked into itself.
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            members: dict[str, Any] = {}
            found[path] = {"texts": _texts(group), "members": members}
            for name in group:
                objects += 1
                if objects > _OBJECTS or path.count("/") >= _DEPTH:
                    raise ValueError(f"more than {_OBJECTS} objects, or groups more than {_DEPTH} deep")
                members[name] = None
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                item = group[name]
                if isinstance(item, h5py.Group):
                    members[name] = True
                    waiting.append((f"{path}/{name}".lstrip("/"), item))
                elif isinstance(item, h5py.Dataset):
                    members[name] = _dataset(item)
    return found


def _dataset(dataset: Any) -> dict[str, Any]:
    # Numbers that are somewhere else, or not as they are: compressed, or in other files.
    plain = not (dataset.external or dataset.is_virtual or dataset.chunks)
    stored = dataset.id.get_storage_size() if plain else 0
    return {
        "plain": plain and stored == dataset.nbytes,
        "dtype": dataset.dtype.str,
        "shape": dataset.shape,
        "offset": dataset.id.get_offset() if stored else 0,
        "texts": _texts(dataset),
    }


def _texts(item: Any) -> dict[str, Any]:
    """The attributes that are texts or lists of them, of those that Keras writes for names."""
    texts = {}
    for name in item.attrs:
        if name.rstrip("0123456789") not in _ATTRIBUTES:
            continue
        found = item.attrs.get_id(name)
        # Texts of one length claim it in their type, whatever the file holds.
        if found.shape is None or math.prod(found.shape) * found.dtype.itemsize > _ATTRIBUTE:
            raise ValueError(f"an attribute {name!r} that is no list of names")
        value = item.attrs[name]
        texts[name] = _text(value) if not found.shape else [_text(text) for text in value.ravel()]
    return texts


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def main() -> int:
    """Write the index as JSON, or what is wrong with the file."""
    limit()
    with open(0, "rb", closefd=False) as file, contextlib.ExitStack() as opened:
        try:
            data: IO[bytes] = file
            for member in sys.argv[1:]:
                data = opened.enter_context(opened.enter_context(zipfile.ZipFile(file)).open(member))
            found = index(data)
        except Exception as error:  # noqa: BLE001 - whatever h5py says of a damaged file, it is damaged
            sys.stderr.write(f"{type(error).__name__}: {error}".splitlines()[0])
            return 1
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
