"""An index of an HDF5 file: names, shapes and offsets, read with h5py.

The HDF5 library is written in C and not hardened against hostile files, which can make it loop, exhaust the memory or
crash. So it is used only in a separate process with limits (`models.weights.reader`), follows no link out of the file,
opens no other file and reads no dataset.
"""

from __future__ import annotations

import io
import math
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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


def index(file: IO[bytes]) -> dict[str, Any]:
    """Every group by path, with its string attributes and its members: True for a group, a dictionary for a dataset.

    Other objects are None. The state of an optimizer is not included.
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
