"""Text files as editors write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import glimpse.client.texts
import glimpse.models.files.texts

# Each half of the project has its own: the client installs without the other.
READERS = pytest.mark.parametrize(
    "decode", [glimpse.models.files.texts.decode, glimpse.client.texts.decode], ids=["server", "client"]
)


@READERS
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["", "mean = 1\r\nstd = 2\r\n", "Käse und \u2028 Brot", "\U0001f408"])
def test_utf_8_and_whatever_has_a_byte_order_mark_is_read(
    decode: Callable[[bytes], str], encoding: str, text: str
) -> None:
    assert decode(text.encode(encoding)) == text


@READERS
def test_big_endian_utf_16_is_read_as_well(decode: Callable[[bytes], str]) -> None:
    assert decode(b"\xfe\xff\x00c\x00a\x00t") == "cat"


@READERS
@pytest.mark.parametrize("data", [b"caf\xe9\n", b"c\x00a\x00t\x00", b"\x00c\x00a\x00t", b"\xff\xfec", b"\x80"])
def test_any_other_text_is_refused_with_what_to_do(decode: Callable[[bytes], str], data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError, match="Save the file as UTF-8"):
        decode(data)
