"""A form with files (`multipart/form-data`, RFC 7578), from a body that is in memory already.

The body is cut at its boundaries by one search, in time that grows with its length whatever is in it. A parser that
goes through it step by step, as for bodies that come in pieces, would take seconds for one that is made for that.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glimpse.server.errors import shown
from glimpse.server.http.problems import malformed

_MOST_PARTS = 1024  # more than a request has images by default; each takes a few hundred bytes besides its content
_MOST_TEXT = 1024  # bytes of a field that is no file, and of the headers of a part
_LONGEST_BOUNDARY = 70  # characters: RFC 2046, section 5.1.1
_LINE = b"\r\n"
# name=value or name="value", in which a quote may stand behind a backslash.
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')


class Form(NamedTuple):
    """What a form holds."""

    texts: dict[str, str]  # its fields that are no files, by name
    files: list[bytes]  # in their order
    names: list[str]  # of the fields that hold the files


def read(body: bytes, content_type: str) -> Form:
    """Read a form.

    Args:
        body: all of it.
        content_type: the header's value, which names the boundary.

    Raises:
        InvalidRequestError: expected; it is no form, or one of its fields is too long.
    """
    boundary = _parameters(content_type.encode("latin-1", "replace")).get(b"boundary", b"")
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise malformed("The Content-Type multipart/form-data must name a boundary.", field="content-type")
    mark = b"--" + boundary
    parts = body.split(_LINE + mark, _MOST_PARTS + 1)
    if body.startswith(mark):
        parts[0] = parts[0].removeprefix(mark)
    else:  # whatever is before the first boundary
        del parts[0]
    if len(parts) > _MOST_PARTS + 1:
        raise malformed(f"A form may have at most {_MOST_PARTS} parts.")
    if not parts or not parts[-1].startswith(b"--"):
        raise malformed("The body is not multipart/form-data with its boundary, or is incomplete.")
    form = Form({}, [], [])
    for part in parts[:-1]:
        _read_part(part, form)
    return form


def _read_part(part: bytes, form: Form) -> None:
    """Read what is between two boundaries into the form.

    Raises:
        InvalidRequestError: expected; it is no field of a form.
    """
    end = part.find(_LINE + _LINE, 0, _MOST_TEXT)
    disposition = next(
        (line for line in part[: max(0, end)].split(_LINE) if line.lower().startswith(b"content-disposition:")), b""
    )
    options = _parameters(disposition)
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if end < 0 or not name:
        raise malformed("Each part of the form needs a Content-Disposition of form-data with a name.")
    content = part[end + 4 :]
    if b"filename" in options or b"filename*" in options or name == "image":
        form.files.append(content)
        form.names.append(name)
    elif len(content) > _MOST_TEXT:
        raise malformed(
            f"The field {shown(name)} is too long. Send images as files: curl -F image=@photo.jpg", field=name[:80]
        )
    else:
        form.texts[name] = content.decode("utf-8", "replace")


def _parameters(header: bytes) -> dict[bytes, bytes]:
    return {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(header)}
