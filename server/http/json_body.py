"""JSON from strangers: bounded before it is parsed, strict, and read by the types that are expected."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
from typing import Any, NoReturn

from glimpse.server.errors import InvalidRequestError, shown
from glimpse.server.http.problems import malformed

# Each bracket, brace and comma may become an object of some 60 bytes, so that a body of megabytes of them would become
# hundreds. So many are enough for an image of 224 x 224 pixels as numbers, three for each pixel.
MOST_VALUES = 400_000
INT64 = -(1 << 63), (1 << 63) - 1  # the lowest and the highest number; those of JSON have no bounds


def parsed(body: bytes, *, most: int = MOST_VALUES) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        InvalidRequestError: expected; it is none, or one with too many values.
    """
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > most:
        raise malformed(
            f"The JSON has more than {most} values. Send images as files, in base64 or as the body, or pixels as "
            "binary tensors."
        )
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = f"at character {error.pos}, {error.msg.lower()}" if body else "it is empty"
        raise malformed(f"The body is not JSON: {what}.") from None
    except UnicodeDecodeError:
        raise malformed("The body is not JSON: it is not text in UTF-8.") from None
    except (ValueError, RecursionError):  # also of numbers of thousands of digits
        raise malformed("The body is not JSON, or has too long a number or too deep a nesting.") from None
    if not isinstance(content, dict):
        raise malformed(f"The body must be a JSON object. Received: {kind(content)}.")
    return content


def image(text: object, field: str) -> bytes:
    """The bytes that base64 stands for; with or without padding, in either alphabet, as RFC 4648 has it.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if not isinstance(text, str):
        raise malformed(f"{field} must be a string of base64. Received: {kind(text)}.", field=field)
    try:
        raw = text.encode("ascii")
        if b"-" in raw or b"_" in raw:
            raw = raw.translate(_URL_SAFE)
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (binascii.Error, ValueError):
        hint = f", without {shown(text.partition(',')[0] + ',')} in front" if text.startswith("data:") else ""
        raise malformed(f"{field} is not base64. Send the image file's bytes in base64{hint}.", field=field) from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def integer(value: object, field: str) -> int:
    """A whole number.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise malformed(f"{field} must be a whole number. Received: {kind(value)}.", field=field)
    return value


def number(value: object, field: str) -> float:
    """A finite number.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    found = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            found = float(value)
    if not math.isfinite(found):
        raise malformed(f"{field} must be a finite number. Received: {kind(value)}.", field=field)
    return found


def boolean(value: object, field: str) -> bool:
    """True or false.

    Raises:
        InvalidRequestError: expected; it is neither.
    """
    if not isinstance(value, bool):
        raise malformed(f"{field} must be true or false. Received: {kind(value)}.", field=field)
    return value


def string(value: object, field: str) -> str:
    """A text.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if not isinstance(value, str):
        raise malformed(f"{field} must be a string. Received: {kind(value)}.", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may have half of a pair of surrogates, which no answer could repeat
        raise malformed(f"{field} has a character that Unicode does not have.", field=field) from None
    return value


def strings(value: object, field: str) -> list[str]:
    """An array of texts.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if not isinstance(value, list):
        raise malformed(f"{field} must be an array of strings. Received: {kind(value)}.", field=field)
    return [string(each, f"{field}[{number}]") for number, each in enumerate(value)]


def objects(value: object, field: str) -> list[dict[str, Any]]:
    """An array of objects.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        received = "others among them" if isinstance(value, list) else kind(value)
        raise malformed(f"{field} must be an array of objects. Received: {received}.", field=field)
    return value


def mapping(value: object, field: str) -> dict[str, Any]:
    """An object.

    Raises:
        InvalidRequestError: expected; it is none.
    """
    if not isinstance(value, dict):
        raise malformed(f"{field} must be an object. Received: {kind(value)}.", field=field)
    return value


def given(content: dict[str, Any], name: str, default: Any) -> Any:
    """What may be left out; null is as if it were, for libraries write that in its place."""
    return default if (found := content.get(name)) is None else found


def unknown(name: str, where: str, known: str) -> InvalidRequestError:
    """What a caller is told whose JSON has what nobody reads."""
    return malformed(f"{where} has no {shown(name)}. Known: {known}.", field=f"{where}.{name[:80]}")


def kind(value: object) -> str:
    """What a value of JSON is, for people."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
