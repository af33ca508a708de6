"""The formats of graphs that are served as they are, one row each."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from glimpse.models.files import bounded_files
from glimpse.models.foreign import onnx, openvino_ir, saved_model, tflite
from glimpse.models.foreign.facts import DamagedGraphError, GraphError, GraphFacts

_HEAD = 512  # bytes that tell every format


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFormat:
    """A format of files that hold a whole network."""

    name: str  # "onnx": in `Bundle.graph`
    title: str  # for people
    is_it: Callable[[Path, bytes], bool]  # of a file's path and its first bytes
    read: Callable[[memoryview, Path], GraphFacts]
    suffix: str  # by which a file in a folder is found; of the whole name
    channels_first: bool  # where the shape of an input does not tell
    again: str  # what to do about a damaged file, for the end of a sentence


FORMATS: tuple[GraphFormat, ...] = (
    GraphFormat(
        name="savedmodel",
        title="TensorFlow SavedModel",
        is_it=lambda path, _: path.name == saved_model.FILE,
        read=saved_model.read,
        suffix=saved_model.FILE,
        channels_first=False,
        again="export the model again",
    ),
    GraphFormat(
        name="tflite",
        title="TFLite",
        is_it=lambda _, head: head[4:8] == tflite.MAGIC,
        read=tflite.read,
        suffix=".tflite",
        channels_first=False,
        again="convert the model again",
    ),
    GraphFormat(
        name="openvino",
        title="OpenVINO IR",
        is_it=lambda path, head: path.suffix == ".xml" and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"),
        read=openvino_ir.read,
        suffix=".xml",
        channels_first=True,
        again="save the model again with openvino.save_model",
    ),
    GraphFormat(
        name="onnx",
        title="ONNX",
        # It has no magic number, and begins with its first field, the version of the format.
        is_it=lambda _, head: head[:1] == b"\x08" and head[8:9] != b"{",
        read=onnx.read,
        suffix=".onnx",
        channels_first=True,
        again="export the model again",
    ),
)
BY_NAME = {row.name: row for row in FORMATS}


def detect(path: Path) -> GraphFormat | None:
    """The format of a file by its name and its first bytes; None: it is none of these.

    Raises:
        OSError, ValueError: it cannot be opened, or is no regular file.
    """
    with bounded_files.open_file(path) as file:
        head = file.read(_HEAD)
    return next((row for row in FORMATS if row.is_it(path, head)), None)


def read(row: GraphFormat, path: Path) -> GraphFacts:
    """What a file says of its graph.

    Raises:
        GraphError: it cannot be read, is damaged, or holds what cannot be served.
    """
    try:
        with bounded_files.open_file(path) as file:
            return _read(row, file, path)
    except DamagedGraphError as error:
        raise GraphError(f"{path} is damaged: as {row.title} it {error}. Copy it again, or {row.again}.") from error
    except OSError as error:
        raise GraphError(
            f"{path} cannot be read: {error.strerror or error}. Give the path of a readable file."
        ) from error
    except GraphError:
        raise
    except ValueError as error:
        raise GraphError(f"{path} cannot be read: {error}.") from error


def _read(row: GraphFormat, file: BinaryIO, path: Path) -> GraphFacts:
    if not file.seek(0, 2):
        raise DamagedGraphError("is empty")
    # Closed by whoever looks at it last: an error on its way up still holds parts of it.
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return row.read(memoryview(whole), path)
