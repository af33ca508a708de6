"""The contract, from the descriptor and the comments of the .proto: its services and messages, and its errors."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from docs.generate.markdown import anchor, code, table
from glimpse.client.errors import Code as ClientCode
from glimpse.client.errors import of_code
from glimpse.server import errors

PROTO = Path(__file__).parents[2] / "proto"
FILE = "glimpse/v1/classifier.proto"
_ROW = re.compile(r"^\| `(?P<reason>[A-Z_]+)` \| (?P<code>[A-Z_]+) \| (?P<meaning>.*) \|$", re.MULTILINE)
# Numbers of the fields of FileDescriptorProto and its parts, which a comment's path is made of.
_SYNTAX, _MESSAGES, _SERVICES, _PARTS = 12, 4, 6, 2

_ABOUT = """\
# API

The gRPC API `glimpse.v1`, as [classifier.proto](../proto/classifier.proto) defines it and the server's reflection shows
it. Generate a client in any language from that file. The errors have a [page of their own](errors.md).
"""
_ONE_IMAGE = """\
If an image is refused, `classify` of the Python client raises `ImageRefusedError`, and `classify_many` returns a result
with an `error`.
"""


@dataclass(frozen=True, slots=True)
class Error:
    """A row of the table of reasons."""

    reason: str
    code: str
    meaning: str


def errors_page() -> str:
    """The reasons, and what to do about each kind."""
    head = _Commented().head
    before, _, rest = head.partition("Reasons, for programs to switch on:")
    after = rest.rpartition("|\n")[2].strip()
    return "\n".join(
        [
            "# Errors\n",
            before.partition("# Errors")[2].strip() + "\n",
            "## Reasons\n",
            table(
                ("reason", "what was wrong", "gRPC status, and what the Python client raises"),
                [
                    [anchor(row.reason) + code(row.reason), row.meaning, f"{row.code}<br>{code(_raised(row))}"]
                    for row in reasons(head)
                ],
            ),
            _ONE_IMAGE,
            after + "\n",
            "## Kinds\n",
            table(
                ("gRPC status", "number", "meaning"),
                [[kind.code.name, str(kind.code.value), (kind.__doc__ or "").splitlines()[0]] for kind in _kinds()],
            ),
        ]
    )


def reasons(head: str | None = None) -> list[Error]:
    """The table in the .proto.

    Raises:
        ValueError: it is not the reasons that the server gives.
    """
    found = [Error(**match.groupdict()) for match in _ROW.finditer(head or _Commented().head)]
    if {each.reason for each in found} != set(errors.Reason):
        difference = {each.reason for each in found} ^ set(errors.Reason)
        raise ValueError(f"The table in {FILE} and server/errors.py differ in {', '.join(sorted(difference))}.")
    return found


def _raised(row: Error) -> str:
    return of_code(ClientCode[row.code]).__name__


def _kinds() -> list[type[errors.ServiceError]]:
    return errors.ServiceError.__subclasses__()


def page() -> str:
    """Services, then messages in the order of the file."""
    commented = _Commented()
    file = commented.file
    parts = [
        _ABOUT,
    ]
    for number, service in enumerate(file.service):
        parts += [f"## Service {service.name}\n", commented.text(_SERVICES, number)]
        for index, method in enumerate(service.method):
            parts += [f"### {method.name}\n", _signature(method), commented.text(_SERVICES, number, _PARTS, index)]
    parts.append("## Messages\n")
    for number, message in enumerate(file.message_type):
        parts += [f"### {message.name}\n", commented.text(_MESSAGES, number)]
        fields = list(_fields(message, commented, number))
        if fields:
            parts.append(table(("field", "number", "type", ""), fields))
    return "\n".join(parts)


def _signature(method: MethodDescriptorProto) -> str:
    asked, told = _name(method.input_type), _name(method.output_type)
    many = ("stream of " if method.client_streaming else "", "stream of " if method.server_streaming else "")
    return f"{many[0]}{_link(asked)} → {many[1]}{_link(told)}\n"


def _fields(message: DescriptorProto, commented: _Commented, number: int) -> Iterator[list[str]]:
    maps = {nested.name: nested.field for nested in message.nested_type if nested.options.map_entry}
    for index, field in enumerate(message.field):
        kind = _type(field)
        if field.type_name and (entry := maps.get(_name(field.type_name))) is not None:
            kind = f"map of {_type(entry[0])} to {_type(entry[1])}"
        elif field.label == FieldDescriptorProto.LABEL_REPEATED:
            kind = f"repeated {kind}"
        if field.proto3_optional:
            kind = f"optional {kind}"
        elif field.HasField("oneof_index"):
            kind += f", one of `{message.oneof_decl[field.oneof_index].name}`"
        text = commented.text(_MESSAGES, number, _PARTS, index)
        yield [anchor(f"{message.name}.{field.name}") + code(field.name), str(field.number), kind, text]


def _type(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return _link(_name(field.type_name))
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _name(full: str) -> str:
    return full.rpartition(".")[2]


def _link(message: str) -> str:
    return f"[{message}](#{message.lower()})"


class _Commented:
    """The file as protoc reads it, comments and all; the stubs do not carry them."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "descriptor.pb"
            # In a process of its own: in one that has loaded TensorFlow, which brings its own protobuf, protoc crashes.
            protoc = [sys.executable, "-m", "grpc_tools.protoc"]
            wanted = [f"-I{PROTO}", f"--descriptor_set_out={out}", "--include_source_info", FILE]
            if subprocess.run([*protoc, *wanted], check=False).returncode != 0:
                raise ValueError(f"protoc cannot read {PROTO / FILE}; it has said why.")
            (self.file,) = FileDescriptorSet.FromString(out.read_bytes()).file
        self._comments = {tuple(each.path): each for each in self.file.source_code_info.location}

    def text(self, *path: int) -> str:
        """The comment in front of what the path leads to, as paragraphs."""
        return _plain(self._comments[path].leading_comments) if path in self._comments else ""

    @property
    def head(self) -> str:
        """The comment at the top of the file."""
        location = self._comments[(_SYNTAX,)]
        return _plain("\n".join([*location.leading_detached_comments, location.leading_comments]))


def _plain(comment: str) -> str:
    return "\n".join(line.strip() for line in comment.splitlines()).strip() + "\n"
