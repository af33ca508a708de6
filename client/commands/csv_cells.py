"""Text in the cells of a CSV file, so that a spreadsheet takes it for text and a terminal obeys none of it.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return (OWASP, "CSV
Injection"), also behind spaces and quotes, as full-width characters, and in the midst of a cell of ours behind what
separates cells elsewhere: a semicolon or a tab. Text that does so, or has control characters, is written behind a
single quote: ``=1+1`` as ``'=1+1``. Its control characters, such separators and backslashes become escapes of Python's
kind. Text that begins with a single quote gets one, too, so that each cell can be read back as what it was.
"""

from __future__ import annotations

import re
import unicodedata

_COMPUTED = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_BEGINS = re.compile(rf"[\s\"']*[{_COMPUTED}]")
_SEPARATED = re.compile(rf"[;\t|](?=[\s\"']*[{_COMPUTED}])")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_STDIN = "-"  # our own name of the standard input: alone it computes nothing


def escape_cell(text: str) -> str:
    """What is written for a text. Numbers of our own do not need it, and may be negative."""
    separated = _SEPARATED.search(text) is not None
    controls = not text.isprintable() and any(map(_is_control, text))
    harmless = not (separated or controls or text.startswith("'") or _BEGINS.match(text))
    if harmless or text == _STDIN:
        return text
    text = _SEPARATED.sub(lambda found: _escaped(found[0]), text.replace("\\", "\\\\"))
    return "'" + "".join(_escaped(char) if _is_control(char) else char for char in text)


def unescape_cell(cell: str) -> str:
    """The text for which a cell was written; of one that an older version wrote, what stands there."""
    if not cell.startswith("'"):
        return cell
    return _ESCAPE.sub(_unescaped, cell[1:])


def _is_control(char: str) -> bool:
    """Whether a terminal would obey a character, or a name's byte that stands for one."""
    if char in _JOINERS:
        return False
    category = unicodedata.category(char)
    # Bytes of a name that are no text stand there as surrogates: of those from 0xa0 on, which are letters in older
    # encodings, the byte itself is written.
    return category in {"Cc", "Cf", "Zl", "Zp"} or (category == "Cs" and not "\udca0" <= char <= "\udcff")


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    return chr(int(digits, 16)) if digits else "\\"
