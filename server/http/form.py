"""A form with files (`multipart/form-data`, RFC 7578), from a body that is in memory already."""

from __future__ import annotations

from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from glimpse.server.errors import shown
from glimpse.server.http.problems import malformed

_MOST_PARTS = 4096  # more than any request may have images; each takes a few hundred bytes besides its content
_MOST_TEXT = 1024  # bytes of a field that is no file
_LONGEST_BOUNDARY = 70  # characters: RFC 2046, section 5.1.1


class Form(NamedTuple):
    """What a form holds."""

    texts: dict[str, str]  # its fields that are no files, by name
    files: list[bytes]  # in their order


class _Part:
    """One part while it is read."""

    def __init__(self) -> None:
        self.disposition = b""  # the value of its header Content-Disposition
        self.content = list[bytes]()  # in the pieces in which it was found


class _Reader:
    """Collects the parts that the parser finds."""

    def __init__(self) -> None:
        self.parts = list[_Part]()
        self.ended = False  # whether the last boundary has come
        self._name, self._value = bytearray(), bytearray()

    def parser(self, boundary: bytes) -> MultipartParser:
        """A parser that tells this object what it finds."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_name,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def _begin(self) -> None:
        if len(self.parts) >= _MOST_PARTS:
            raise malformed(f"A form may have at most {_MOST_PARTS} parts.")
        self.parts.append(_Part())

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self.parts[-1].disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content.append(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


def read(body: bytes, content_type: str) -> Form:
    """Read a form.

    Args:
        body: all of it.
        content_type: the header's value, which names the boundary.

    Raises:
        InvalidRequestError: expected; it is no form, or one of its fields is too long.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise malformed("The Content-Type multipart/form-data must name a boundary.")
    reader = _Reader()
    try:
        parser = reader.parser(boundary)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        reader.ended = False
    if not reader.ended:
        raise malformed("The body is not multipart/form-data, or is incomplete.")
    return _form(reader.parts)


def _form(parts: list[_Part]) -> Form:
    form = Form({}, [])
    for part in parts:
        kind, options = parse_options_header(part.disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not name:
            raise malformed("Each part of the form needs a Content-Disposition of form-data with a name.")
        content = part.content[0] if len(part.content) == 1 else b"".join(part.content)
        if b"filename" in options or b"filename*" in options or name == "image":
            form.files.append(content)
        elif len(content) > _MOST_TEXT:
            raise malformed(f"The field {shown(name)} is too long. Send images as files: curl -F image=@photo.jpg")
        else:
            form.texts[name] = content.decode("utf-8", "replace")
    return form
