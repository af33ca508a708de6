"""TensorFlow's SavedModel: what ``saved_model.pb`` says of its signature.

The numbers of fields are those of ``saved_model.proto`` and ``meta_graph.proto``. The variables lie in the folder
``variables`` beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glimpse.models.foreign.facts import (
    MAX_AXES,
    MAX_TENSORS,
    DamagedGraphError,
    GraphError,
    GraphFacts,
    Shape,
    TensorFacts,
    refuse_outside,
)
from glimpse.models.foreign.protobuf import Counter, Message, signed

FILE = "saved_model.pb"
_VARIABLES = "variables"

_META_GRAPHS, _META_INFO, _META_SIGNATURES = 2, 1, 5
_INFO_VERSION = 5  # of TensorFlow
_KEY, _VALUE = 1, 2  # of an entry of a map
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS = 1, 2
_TENSOR_DTYPE, _TENSOR_SHAPE = 2, 3
_SHAPE_SIDE, _SHAPE_UNKNOWN, _SIDE_SIZE = 2, 3, 1
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 19: "float16"}
_NAME = 1_000  # bytes
_SIGNATURE = "serving_default"  # the one that OpenVINO reads
_NO_OPERATION = "__saved_model_init_op"  # a signature that only prepares the others


def read(data: memoryview, path: Path) -> GraphFacts:
    """Read what a SavedModel says of its signature ``serving_default``.

    Args:
        data: of its file ``saved_model.pb``.
        path: of that file, for messages.

    Raises:
        DamagedGraphError: it is no such file.
        GraphError: it has no such signature.
    """
    if (path.parent / _VARIABLES).is_dir():
        refuse_outside(path, _VARIABLES)
        for file in (path.parent / _VARIABLES).iterdir():
            refuse_outside(path, f"{_VARIABLES}/{file.name}")
    whole = Message(data, Counter())
    meta = next(whole.messages(_META_GRAPHS), None)
    if meta is None:
        raise DamagedGraphError("has no graph")
    signatures = dict(_entries(meta, _META_SIGNATURES))
    if _SIGNATURE not in signatures:
        known = ", ".join(sorted(name[:80] for name in signatures if name != _NO_OPERATION)) or "none"
        raise GraphError(
            f"{path.parent} must have the signature {_SIGNATURE}, which takes images and gives scores. Received: "
            f"{known}. Export the model with model.export(folder) of Keras, or give tf.saved_model.save a signature."
        )
    signature = signatures[_SIGNATURE]
    return GraphFacts(
        inputs=tuple(_tensors(signature, _SIGNATURE_INPUTS)),
        outputs=tuple(_tensors(signature, _SIGNATURE_OUTPUTS)),
        producer=f"TensorFlow {meta.message(_META_INFO).text(_INFO_VERSION, _NAME)}".strip(),
    )


def _entries(message: Message, field: int) -> Iterator[tuple[str, Message]]:
    """The entries of a map with texts as keys."""
    for count, entry in enumerate(message.messages(field)):
        if count >= MAX_TENSORS:
            raise DamagedGraphError(f"has a map of more than {MAX_TENSORS} entries")
        yield entry.text(_KEY, _NAME), entry.message(_VALUE)


def _tensors(signature: Message, field: int) -> Iterator[TensorFacts]:
    for name, tensor in sorted(_entries(signature, field), key=lambda entry: entry[0]):
        dtype = tensor.integer(_TENSOR_DTYPE)
        shapes = list(tensor.messages(_TENSOR_SHAPE))
        yield TensorFacts(
            name=name, shape=_shape(shapes[-1]) if shapes else None, dtype=_DTYPES.get(dtype, f"data type {dtype}")
        )


def _shape(message: Message) -> Shape | None:
    sides: list[int | None] = []
    for number, value in message:
        if number == _SHAPE_UNKNOWN and value:
            return None
        if number == _SHAPE_SIDE:
            sides.append(_side(message.inner(value)))
            if len(sides) > MAX_AXES:
                raise DamagedGraphError(f"has a tensor of more than {MAX_AXES} axes")
    return tuple(sides)


def _side(dimension: Message) -> int | None:
    sizes = [signed(value) for number, value in dimension if number == _SIDE_SIZE and isinstance(value, int)]
    return sizes[-1] if sizes and sizes[-1] > 0 else None
