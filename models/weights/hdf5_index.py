"""What lies where in an HDF5 file: a program of its own, which `models.weights.hdf5_file` runs.

The library behind h5py is C and not made against hostile files: damaged ones can make it loop for ever, take all
memory or crash. So it reads them in this process, which has limits and nothing to lose, and which tells only names,
shapes and places; whoever started it reads the numbers, and checks that they are within the file.

It follows no link out of the file, opens no other file and reads no dataset. It is run by its path, with the file
as standard input and three numbers as arguments: the seconds of computing that it may take, where in the file the HDF5
file begins (it may be a member of a zip archive), and how many bytes it has.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MEMORY = 4 << 30  # bytes of address space, most of it for libraries
_OBJECTS = 200_000
_DEPTH = 32  # of groups; nested models are a few deep
_ATTRIBUTE = 1 << 20  # bytes; HDF5 itself keeps attributes below 64 KiB
_TRAINING = ("optimizer", "optimizer_weights")  # groups; as large as the weights, or twice
# A long list is spread over layer_names0, 1, ...; the last is the graph of a whole model.
_ATTRIBUTES = ("layer_names", "weight_names", "name", "dtype", "model_config")


class Window(io.RawIOBase):
    """Part of a file, as a file for reading and seeking that begins at 0.

    zipfile's own files read everything before a place again whenever they are told to go back to it, and the library of
    HDF5 goes back thousands of times.

    Args:
        file: the whole file; its position is moved.
        start: of the part, bytes from the beginning.
        size: bytes of the part.
    """

    def __init__(self, file: BinaryIO | IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read, from the beginning of the part."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, from the beginning of the part, from where it is, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"byte {base + offset} of a file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as the part goes; how many bytes it got."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(view), self._size - self._position)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def limit(seconds: int) -> None:
    """Let the kernel end this process when it takes too much."""
    try:
        import resource
    except ImportError:  # Windows; there remains the time that is waited for it
        return
    for what, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        # Not every system has every limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def index(file: IO[bytes]) -> dict[str, Any]:
    """By path, every group with its texts and its members: groups are True, datasets are told, others are None.

    What an optimizer has kept for the next step of training is left out.
    """
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
                    if not path and name in _TRAINING:
                        continue
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
        # How Keras says that two bytes are a bfloat16; all others tell by themselves what they are.
        "texts": _texts(dataset) if dataset.dtype.kind == "V" else {},
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
    seconds, start, size = map(int, sys.argv[1:])
    limit(seconds)
    with open(0, "rb", closefd=False) as file:
        try:
            found = index(io.BufferedReader(Window(file, start, size)))
        except Exception as error:  # noqa: BLE001 - whatever h5py says of a damaged file, it is damaged
            sys.stderr.write(f"{type(error).__name__}: {error}".splitlines()[0])
            return 1
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
