"""Reading safetensors: a header of names and offsets, then the data. The format is designed for untrusted files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors
from numpy.typing import NDArray

from glimpse.models.weights.dtypes import BFLOAT16, numbers
from glimpse.models.weights.errors import WeightsError

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


_HEADER = 8 << 20  # bytes; its entries take several times as much memory


def read(file: BinaryIO, path: Path) -> dict[str, NDArray[np.generic]]:
    """All tensors of the file.

    Raises:
        WeightsError: the file is damaged or has numbers of another kind.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER:
        raise WeightsError(
            f"{path} is not a safetensors file of float tensors: it begins with a header of {length} bytes, and the "
            f"largest networks have half a million of the {_HEADER} that are read. Copy it again."
        )
    file.seek(0)
    try:
        entries = safetensors.deserialize(file.read())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file of float tensors: {error}. Copy it again.") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"{path} holds {name[:80]!r} as {entry['dtype']}; {', '.join(_DTYPES)} are read. "
                "Save it as one of these."
            )
        try:
            tensors[name] = numbers(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except (ValueError, OverflowError) as error:  # more axes than NumPy has, or sizes beside a 0 that are none
            raise WeightsError(
                f"{path} is not a safetensors file of float tensors: {name[:80]!r} has a shape that cannot be "
                f"({error}). Copy it again."
            ) from error
    return tensors
