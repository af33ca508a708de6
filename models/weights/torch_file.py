"""PyTorch's files, without PyTorch: the zip archives of version 1.6 and later, and the bare pickles before them.

What such a file pickles is a dictionary of tensors, each of which refers to a storage: its numbers, beside the pickle.
`models.weights.pickled` reads the pickle; this module knows the seven names that a dictionary of tensors needs.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glimpse.models.weights import limits
from glimpse.models.weights.archive import Archive
from glimpse.models.weights.contents import Contents
from glimpse.models.weights.dtypes import BFLOAT16, numbers, width
from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.pickled import Machine, Name, PickleError
from glimpse.models.weights.prefixes import is_averaged

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
# How torch.save began before it wrote zip files: its magic number, pickled.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
# Under which training scripts keep the tensors; before them what is averaged, as timm takes it.
_PLACES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|loss|criterion|momentum|exp_avg", re.IGNORECASE)
_LEVELS = 4  # of dictionaries in dictionaries that are looked into
_SETS = 8  # of tensors in a file that are looked at
# What training scripts keep beside the tensors: settings, numbers, paths. Nothing of it is made or run; in its place is
# put a dictionary, which takes whatever the file would fill it with.
_BESIDE = {
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
_DICTIONARIES = 10_000  # that are looked into
_EMPTY = 1 << 40  # of the other sizes of a tensor of which one is 0
_REFERENCE = 6  # parts of a reference to a storage, at the most
_SHOWN = 80  # characters of a name in a message
_ADVICE = "Save the tensors alone, with torch.save(model.state_dict(), path), or as safetensors."


@dataclass(slots=True, eq=False)
class _Storage:
    """Numbers that tensors look at."""

    key: str
    dtype: str
    count: int
    root: _Storage | None = None  # of which it is a part, from `offset`
    offset: int = 0
    values: NDArray[np.generic] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Parameter:
    """What PyTorch before 0.4 made before it said which tensor it is."""

    tensor: _Tensor | None = None


class _Beside(dict[Any, Any]):
    """In the place of something that is no tensor: it takes whatever the file would put into it."""


@dataclass(slots=True)
class _Checkpoint:
    """What a file of tensors may name and refer to."""

    storages: dict[str, _Storage] = field(default_factory=dict)
    pairs: int = _PAIRS  # that may still be: one list of them may be made into a dictionary again and again

    def read(self, file: BinaryIO) -> object:
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
            case "torch._utils._rebuild_parameter", (_Tensor() as tensor, *_):
                made = tensor
            case "torch.nn.parameter.Parameter" | "torch.autograd.variable.Variable", ():
                made = _Parameter()
            case "torch.nn.parameter.Parameter" | "torch.autograd.variable.Variable", (_Tensor() as tensor, *_):
                made = tensor
            case "torch.Size", (tuple(size),):
                made = size
            case beside, _ if beside in _BESIDE:
                made = _Beside()
            case _:
                raise PickleError(f"{name}, which is no part of a dictionary of tensors and was not run")
        return made

    def _build(self, made: object, state: object) -> None:
        match made, state:
            case _Parameter(), (_Tensor() as tensor, *_):
                made.tensor = tensor
            case _Beside(), _:
                pass
            case dict(), dict():  # attributes of an OrderedDict: the versions of the modules
                pass
            case _:
                raise PickleError("a state for something that has none")

    def _persistent(self, reference: object) -> _Storage:
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
            raise PickleError(f"numbers of the kind {kind[:_SHOWN]}")
        if len(key) > limits.NAME or not 0 <= count < 1 << 62:
            raise PickleError("a storage of a size that is no size, or with a name too long")
        storage = self.storages.setdefault(key, _Storage(key, _DTYPES[kind], count))
        if (storage.dtype, storage.count) != (_DTYPES[kind], count):
            raise PickleError(f"storage {key[:_SHOWN]!r} with two types or sizes")
        match rest:
            case [] | [None]:
                return storage
            case [(str(), int(offset), int(part))]:
                if offset < 0 or part < 0 or offset + part > count:
                    raise PickleError(f"a part beyond the end of storage {key[:_SHOWN]!r}")
                return _Storage(key, storage.dtype, part, root=storage, offset=offset)
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


def _tensor(storage: object, offset: object, size: object, stride: object) -> _Tensor:
    """A view, once it is known to lie within its storage and to be no larger."""
    match storage, offset, size, stride:
        case _Storage(), int(), tuple(), tuple():
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
    return _Tensor(storage, offset, size, stride)


def _values(storage: _Storage) -> NDArray[np.generic]:
    if storage.root is not None:
        return _values(storage.root)[storage.offset : storage.offset + storage.count]
    if storage.values is None:
        raise PickleError(f"no numbers for storage {storage.key[:_SHOWN]!r}")
    return storage.values


def _array(tensor: _Tensor) -> NDArray[np.generic]:
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


def read_zip(archive: Archive, path: Path) -> Contents:
    """The tensors of a file that torch.save wrote since version 1.6."""
    pickled = next(name for name in archive.names if is_pickle(name))
    folder = pickled.removesuffix("data.pkl")
    data = archive.view(pickled)
    swapped = f"{folder}byteorder" in archive.names and bytes(archive.view(f"{folder}byteorder")) == b"big"

    def read(checkpoint: _Checkpoint) -> object:
        made = checkpoint.read(io.BytesIO(data))
        for storage in checkpoint.storages.values():
            _fill(storage, archive.view(f"{folder}data/{storage.key}"), swapped=swapped)
        return made

    return _tensors(read, path)


def is_pickle(name: str) -> bool:
    """Whether a member of an archive is the dictionary that torch.save wrote: ``<anything>/data.pkl``."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def read_legacy(data: mmap.mmap, path: Path) -> Contents:
    """The tensors of a file that torch.save wrote before version 1.6, or later when told to write the old form.

    Args:
        data: all of the file; it is read as a file is.
        path: of it, for messages.
    """

    def read(checkpoint: _Checkpoint) -> object:
        stream: Any = data
        stream.seek(0)
        checkpoint.read(stream)  # the magic number, by which the file was told
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
                raise PickleError(f"another number of numbers for storage {key[:_SHOWN]!r}")
            _fill(storage, rest[8:end], swapped=False)
            rest = rest[end:]
        return made

    return _tensors(read, path)


def _fill(storage: _Storage, data: bytes | memoryview, *, swapped: bool) -> None:
    if len(data) != storage.count * width(storage.dtype):
        raise PickleError(f"{len(data)} bytes for storage {storage.key[:_SHOWN]!r} of {storage.count} numbers")
    if swapped and width(storage.dtype) > 1:
        data = np.frombuffer(data, f"u{width(storage.dtype)}").byteswap().tobytes()
    storage.values = numbers(data, storage.dtype)


def _tensors(read: Callable[[_Checkpoint], object], path: Path) -> Contents:
    try:
        made = read(_Checkpoint())
        sets = [
            Contents({name: _array(tensor) for name, tensor in tensors.items()}, place=place)
            for place, tensors in _sets(made)
        ]
    except PickleError as error:
        raise WeightsError(f"{path} is no PyTorch file of tensors: it holds {error}. {_ADVICE}") from error
    if not sets:
        raise WeightsError(f"{path} is a PyTorch file without a tensor that has a name. {_ADVICE}")
    return replace(sets[0], others=tuple(sets[1:]))


def _sets(made: object) -> list[tuple[str, dict[str, _Tensor]]]:
    """Every dictionary of named tensors and where it is, ``a.b``, the one that is most likely wanted first."""
    if not isinstance(made, dict):
        raise PickleError(f"a {type(made).__name__.lstrip('_')}, not a dictionary of tensors")
    found: list[tuple[str, dict[str, _Tensor]]] = []
    waiting: deque[tuple[str, dict[Any, Any], int]] = deque([("", made, 0)])
    seen: set[int] = set()
    while waiting and len(found) < _SETS:
        place, dictionary, level = waiting.popleft()
        if id(dictionary) in seen:  # a pickle can hold the same one many times
            continue
        seen.add(id(dictionary))
        if tensors := dict(_named(dictionary)):
            found.append((place, tensors))
        if level < _LEVELS:
            inner = (
                (f"{place}.{key}".lstrip("."), value, level + 1)
                for key, value in dictionary.items()
                # Names are short; a long one in front of many others would be copied for each of them.
                if isinstance(key, str) and isinstance(value, dict) and len(key) <= limits.NAME
                if not _NO_WEIGHTS.search(key)
            )
            waiting.extend(itertools.islice(inner, max(0, _DICTIONARIES - len(seen) - len(waiting))))
    # What is without any kernel, as counters of a metric are, is no network, unless there is nothing else.
    networks = [one for one in found if any(len(tensor.size) > 1 for tensor in one[1].values())]
    return sorted(networks or found, key=lambda one: _rank(*one))


def _named(dictionary: dict[Any, Any]) -> Iterator[tuple[str, _Tensor]]:
    for name, value in dictionary.items():
        tensor = value.tensor if isinstance(value, _Parameter) else value
        if isinstance(name, str) and isinstance(tensor, _Tensor):
            yield name, tensor


def _rank(place: str, tensors: dict[str, _Tensor]) -> tuple[bool, int]:
    """Where a set of tensors comes in the order of what is wanted: averaged weights, then those under a known name."""
    known = [_PLACES.index(part) for part in place.split(".") if part in _PLACES]
    return not is_averaged(place) or _never_averaged(tensors), min(known, default=len(_PLACES))


def _never_averaged(tensors: dict[str, _Tensor]) -> bool:
    """Whether PyTorch's AveragedModel has not been given any weights: it holds those of before the training."""
    count = tensors.get("n_averaged")
    return count is not None and count.size == () and bool(_array(count) == 0)
