"""What the pickle in a PyTorch file may describe: tensors, each a view of a storage, and dictionaries of them.

`models.weights.pickled` reads the pickle; this module knows the few names that a dictionary of tensors needs. What a
file says of storages and views is checked before an array is made of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import limits
from glimpse.models.weights.dtypes import BFLOAT16, numbers, width
from glimpse.models.weights.pickled import Machine, Name, PickleError

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# What training scripts keep beside the tensors: settings, numbers, paths. No such object is created; a placeholder
# takes whatever the file would put into it.
_IGNORED = {
    *("argparse.Namespace", "collections.defaultdict", "collections.Counter", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *("datetime.datetime", "datetime.timedelta", "datetime.date", "_codecs.encode"),
    *("torch.device", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *(
        f"{package}.AttributeDict"
        for package in ("pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing")
    ),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
}
_PAIRS = 1_000_000  # of names and values in all OrderedDicts of a file that Python 2 wrote
_EMPTY = 1 << 40  # of the other sizes of a tensor of which one is 0
_REFERENCE = 6  # parts of a reference to a storage, at the most
SHOWN = 80  # characters of a name in a message


@dataclass(slots=True, eq=False)
class Storage:
    """The data of one or more tensors."""

    key: str
    dtype: str
    count: int
    root: Storage | None = None  # of which it is a part, from `offset`
    offset: int = 0
    values: NDArray[np.generic] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Parameter:
    """A parameter as PyTorch before 0.4 wrote it: created first, and given its tensor afterwards."""

    tensor: Tensor | None = None


class _Placeholder(dict[Any, Any]):
    """Stands for an object that is not a tensor; it accepts whatever the file puts into it."""


@dataclass(slots=True)
class Checkpoint:
    """Unpickles a file of tensors: what its pickle may name, and the storages that it refers to."""

    storages: dict[str, Storage] = field(default_factory=dict)
    pairs: int = _PAIRS  # that may still be: one list of them may be made into a dictionary again and again

    def read(self, file: BinaryIO) -> object:
        """The object that the next pickle in the file describes.

        Raises:
            PickleError: it contains something other than dictionaries of tensors.
        """
        return Machine(self._call, self._persistent, self._build).run(file)

    def _call(self, name: Name, arguments: tuple[Any, ...]) -> object:
        made: object
        match str(name), arguments:
            case "collections.OrderedDict", ():
                made = {}
            case "collections.OrderedDict", (list(pairs),):  # as Python 2 wrote it
                self.pairs -= len(pairs)
                if self.pairs < 0:
                    raise PickleError(f"more than {_PAIRS} names in its dictionaries")
                made = _dictionary(pairs)
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", (
                storage,
                offset,
                size,
                stride,
                *_,
            ):
                made = _tensor(storage, offset, size, stride)
            case "torch._utils._rebuild_parameter", (Tensor() as tensor, *_):
                made = tensor
            case "torch.nn.parameter.Parameter" | "torch.autograd.variable.Variable", ():
                made = Parameter()
            case "torch.nn.parameter.Parameter" | "torch.autograd.variable.Variable", (Tensor() as tensor, *_):
                made = tensor
            case "torch.Size", (tuple(size),):
                made = size
            case ignored, _ if ignored in _IGNORED:
                made = _Placeholder()
            case _:
                raise PickleError(f"{name}, which is no part of a dictionary of tensors and was not run")
        return made

    def _build(self, made: object, state: object) -> None:
        match made, state:
            case Parameter(), (Tensor() as tensor, *_):
                made.tensor = tensor
            case _Placeholder(), _:
                pass
            case dict(), dict():  # attributes of an OrderedDict: the versions of the modules
                pass
            case _:
                raise PickleError("a state for something that has none")

    def _persistent(self, reference: object) -> Storage:
        # A long one could be referred to again and again.
        if isinstance(reference, tuple | list) and len(reference) > _REFERENCE:
            raise PickleError("a reference to something that is no storage")
        match reference:
            case ("storage", Name(module="torch" | "torch.cuda", name=kind), str(key), _, int(count), *rest):
                pass
            case ("module", *_):
                raise PickleError("a whole model with its code, not a dictionary of tensors")
            case _:
                raise PickleError("a reference to something that is no storage")
        if kind not in _DTYPES:
            raise PickleError(f"numbers of the kind {kind[:SHOWN]}")
        if len(key) > limits.NAME or not 0 <= count < 1 << 62:
            raise PickleError("a storage of a size that is no size, or with a name too long")
        storage = self.storages.setdefault(key, Storage(key, _DTYPES[kind], count))
        if (storage.dtype, storage.count) != (_DTYPES[kind], count):
            raise PickleError(f"storage {key[:SHOWN]!r} with two types or sizes")
        match rest:
            case [] | [None]:
                return storage
            case [(str(), int(offset), int(part))]:
                if offset < 0 or part < 0 or offset + part > count:
                    raise PickleError(f"a part beyond the end of storage {key[:SHOWN]!r}")
                return Storage(key, storage.dtype, part, root=storage, offset=offset)
        raise PickleError("a reference to something that is no storage")


def _dictionary(pairs: list[Any]) -> dict[str, Any]:
    made = {}
    for pair in pairs:
        match pair:
            case [str(key), value] | (str(key), value):
                made[key] = value
            case _:
                raise PickleError("an OrderedDict of something other than names and values")
    return made


def _tensor(storage: object, offset: object, size: object, stride: object) -> Tensor:
    """A view of a storage, checked to lie within it and to be no larger."""
    match storage, offset, size, stride:
        case Storage(), int(), tuple(), tuple():
            pass
        case _:
            raise PickleError("a tensor of something other than a storage")
    if len(size) != len(stride) or len(size) > limits.AXES:
        raise PickleError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
    if not all(isinstance(number, int) and 0 <= number < 1 << 62 for number in (offset, *size, *stride)):
        raise PickleError("a tensor with a size that is no size")
    if 0 in size:
        if math.prod(side for side in size if side) > _EMPTY:
            raise PickleError("a tensor of no numbers whose sizes are no sizes")
    else:
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        # An expanded tensor repeats its numbers; nobody saves one, and it could claim any size.
        if last >= storage.count or math.prod(size) > storage.count:
            raise PickleError(f"a tensor of {size} that is larger than its storage of {storage.count} numbers")
    return Tensor(storage, offset, size, stride)


def _values(storage: Storage) -> NDArray[np.generic]:
    if storage.root is not None:
        return _values(storage.root)[storage.offset : storage.offset + storage.count]
    if storage.values is None:
        raise PickleError(f"no numbers for storage {storage.key[:SHOWN]!r}")
    return storage.values


def array(tensor: Tensor) -> NDArray[np.generic]:
    """The numbers of a tensor, as a read-only view of its storage."""
    values = _values(tensor.storage)
    if 0 in tensor.size:
        return np.empty(tensor.size, values.dtype)
    # Along an axis of one number nothing is ever stepped, whatever the file says.
    steps = (step if count > 1 else 1 for count, step in zip(tensor.size, tensor.stride, strict=True))
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.size,
        [step * values.itemsize for step in steps],
        writeable=False,
    )


def fill(storage: Storage, data: bytes | memoryview, *, swapped: bool) -> None:
    """Give a storage its data.

    Args:
        storage: that a pickle referred to.
        data: its bytes in the file.
        swapped: whether they are big-endian.

    Raises:
        PickleError: they are not as many as the storage needs.
    """
    if len(data) != storage.count * width(storage.dtype):
        raise PickleError(f"{len(data)} bytes for storage {storage.key[:SHOWN]!r} of {storage.count} numbers")
    if swapped and width(storage.dtype) > 1:
        data = np.frombuffer(data, f"u{width(storage.dtype)}").byteswap().tobytes()
    storage.values = numbers(data, storage.dtype)
