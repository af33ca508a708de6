"""Text files that people write by hand, in whatever their editor made of them."""

from __future__ import annotations

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks: what Windows' editors call Unicode


def decode(data: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte order mark in front, or UTF-16 with one.

    Raises:
        UnicodeDecodeError: it is neither; the message says what to do.
    """
    try:
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        error.reason += ". Save the file as UTF-8"
        raise
    if (zero := text.find("\0")) >= 0:
        reason = "a zero, as UTF-16 without a byte order mark has it. Save the file as UTF-8"
        raise UnicodeDecodeError("utf-8", data, zero, zero + 1, reason)
    return text
