"""Tensors of the Open Inference Protocol over HTTP: in JSON, or in binary behind it.

Open Inference Protocol, "Inference request JSON object"; Triton's extension for binary tensor data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from glimpse.server.domain import EncodedImage, Image, RawImage
from glimpse.server.errors import InvalidRequestError, Reason, shown
from glimpse.server.http import json_body
from glimpse.server.http.problems import malformed

HEADER_LENGTH = "inference-header-content-length"
_LENGTH = struct.Struct("<I")
_MOST_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Input:
    """An input as it came; its values are in `data`, as JSON, or in `raw`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    raw: bytes | None


def split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request and the binary tensors behind it.

    Raises:
        InvalidRequestError: expected; the header says what cannot be, or there is no JSON.
    """
    if header_length is None:
        return json_body.parsed(body), b""
    if not (header_length.isdecimal() and len(header_length) < 12 and int(header_length) <= len(body)):
        raise malformed(f"{HEADER_LENGTH} must be the number of bytes of the JSON. Received: {shown(header_length)}.")
    length = int(header_length)
    return json_body.parsed(body[:length]), body[length:]


def inputs(content: dict[str, Any], binary: bytes) -> list[Input]:
    """The inputs of a request; together, those that are binary take all of `binary`.

    Raises:
        InvalidRequestError: expected; they are none.
    """
    found, at = list[Input](), 0
    for index, each in enumerate(json_body.objects(content.get("inputs"), "inputs")):
        where = f"inputs[{index}]"
        shape = each.get("shape")
        if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            raise malformed(f"{where}.shape must be an array of numbers.", field=f"{where}.shape")
        sizes = tuple(json_body.integer(size, f"{where}.shape") for size in shape)
        if min(sizes, default=0) < 0:
            raise malformed(f"{where}.shape must not be negative.", field=f"{where}.shape")
        parameters = json_body.mapping(each.get("parameters", {}), f"{where}.parameters")
        raw = None
        if (size := parameters.get("binary_data_size")) is not None:
            length = json_body.integer(size, f"{where}.parameters.binary_data_size")
            if "data" in each:
                raise malformed(f"{where} has both data and binary_data_size. Send one of them.", field=where)
            if not 0 <= length <= len(binary) - at:
                raise malformed(
                    f"{where} should have {length} bytes of binary data, but {len(binary) - at} are left of the body.",
                    field=where,
                )
            raw = binary[at : at + length]
            at += length
        name = json_body.string(each.get("name"), f"{where}.name")
        datatype = json_body.string(each.get("datatype"), f"{where}.datatype")
        found.append(Input(name, datatype, sizes, each.get("data"), raw))
    if at != len(binary):
        raise malformed(f"The body has {len(binary) - at} bytes behind its tensors.")
    return found


def files(given: Input) -> list[bytes]:
    """The image files of an input of BYTES: of shape [N], [N, 1] or [].

    Raises:
        InvalidRequestError: expected; it is none.
    """
    where = f"input {given.name[:80]}"
    number = math.prod(given.shape)
    if len(given.shape) > 2 or (len(given.shape) == 2 and given.shape[1] != 1):
        raise malformed(f"The {where} must have the shape [N] or [N, 1]. Received: {list(given.shape)}.", field="shape")
    if given.raw is not None:
        found = list(_elements(given.raw, where))
    elif isinstance(given.data, list):
        flat = [element for each in given.data for element in (each if isinstance(each, list) else [each])]
        found = [json_body.image(each, f"{where}, data[{index}]") for index, each in enumerate(flat)]
    else:
        raise malformed(f"The {where} needs data, an array of base64, or binary data.", field="data")
    if len(found) != number:
        raise malformed(f"The {where} has {len(found)} elements, but its shape is {list(given.shape)}.", field="shape")
    return found


def pixels(given: Input, height: int, width: int, channels: int) -> list[Image]:
    """The images of an input of UINT8 in rows, columns and channels.

    Raises:
        InvalidRequestError: expected; it has another shape, or other values.
    """
    where = f"input {given.name[:80]}"
    wanted = (height, width, channels)
    shape = given.shape if len(given.shape) == 4 else (1, *given.shape)
    if len(given.shape) not in {3, 4} or shape[1:] != wanted:
        raise InvalidRequestError(
            Reason.RAW_PIXELS_MISMATCH,
            f"The {where} must have the shape [N, {height}, {width}, {channels}]. Received: {list(given.shape)}.",
            field="shape",
        )
    if given.raw is not None:
        raw = given.raw
    elif isinstance(given.data, list):
        try:
            raw = bytes(_flat(given.data))
        except (TypeError, ValueError, RecursionError):
            raise malformed(f"The data of the {where} must be whole numbers from 0 to 255.", field="data") from None
    else:
        raise malformed(f"The {where} needs data or binary data.", field="data")
    size = height * width * channels
    if len(raw) != shape[0] * size:
        raise InvalidRequestError(
            Reason.RAW_PIXELS_MISMATCH,
            f"The {where} has {len(raw)} values, but its shape is {list(given.shape)}.",
            field="data",
        )
    return [RawImage(height, width, raw[at : at + size], channels) for at in range(0, len(raw), size)]


def encoded(given: list[bytes]) -> list[Image]:
    """Image files as images."""
    return [EncodedImage(each) for each in given]


def joined(elements: list[bytes]) -> bytes:
    """The binary form of a tensor of BYTES: each element behind its length, of four bytes, the lowest first."""
    return b"".join([_LENGTH.pack(len(each)) + each for each in elements])


def _elements(raw: bytes, where: str) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise malformed(f"The binary data of the {where} ends amid a length.", field="binary_data_size")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise malformed(
                f"An element of the {where} should have {length} bytes, but {len(raw) - at} are left. Each element of "
                "BYTES begins with its length, of four bytes, the lowest first.",
                field="binary_data_size",
            )
        yield raw[at : at + length]
        at += length


def _flat(values: list[Any]) -> Iterator[Any]:
    """The numbers in nested arrays, row by row; the JSON was bounded, so that the nesting is, too."""
    for each in values:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each if not isinstance(each, bool) else None
