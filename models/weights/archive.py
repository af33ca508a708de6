"""Members of zip files as PyTorch and Keras write them, stored without compression."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO

from glimpse.models.weights.errors import WeightsError
from glimpse.models.weights.hdf5_index import Window

# Bytes in front of a member's name; the last four are the lengths of the name and of what follows it.
_LOCAL_HEADER = 30


class Archive:
    """A zip file whose members are stored uncompressed, and together are no larger than the file.

    Members are only ever read into memory, so that their names need no checking: none becomes a path on disk.

    Args:
        file: the file.
        path: of it, for messages.
        data: all bytes of the file, for `view`.

    Raises:
        WeightsError: the file is damaged, encrypted or compressed, or its members claim to be larger than it is.
    """

    def __init__(self, file: BinaryIO, path: Path, data: memoryview | None = None) -> None:
        self.file, self._path = file, path
        self.data = memoryview(b"") if data is None else data
        size = file.seek(0, 2)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
            raise WeightsError(f"{path} is a damaged zip file: {error}. Copy it again.") from error
        members = self._zip.infolist()
        self.names = [member.filename for member in members]
        for member in members:
            if member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(
                    f"{path} contains {member.filename[:80]!r} compressed or encrypted. PyTorch and Keras store "
                    "tensors uncompressed: save the file again with one of them."
                )
        # Members may share bytes of the file, which would multiply it in memory.
        if sum(member.file_size for member in members) > size or len(set(self.names)) < len(self.names):
            raise WeightsError(
                f"{path} is a damaged zip file: its members claim to be larger than the file. Copy it again."
            )

    def place(self, name: str) -> tuple[int, int]:
        """The offset of a member in the file, and its size in bytes."""
        try:
            member = self._zip.getinfo(name)
            self.file.seek(member.header_offset)
            header = self.file.read(_LOCAL_HEADER)
        except (KeyError, ValueError, OSError) as error:
            raise self._unreadable(name, error) from error
        if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
            raise self._unreadable(name, "no header where it should begin")
        return member.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[-4:])), member.file_size

    def open(self, name: str) -> IO[bytes]:
        """Open a member for reading and seeking; its checksum is not verified."""
        return io.BufferedReader(Window(self.file, *self.place(name)))

    def view(self, name: str) -> memoryview:
        """The bytes of a member as a view of the archive's data; its checksum is verified."""
        start, size = self.place(name)
        if start + size > len(self.data):
            raise self._unreadable(name, "it ends behind the end of the file")
        found = self.data[start : start + size]
        if zlib.crc32(found) != self._zip.getinfo(name).CRC:
            raise WeightsError(f"{self._path} holds a damaged {name[:80]!r}: bad checksum. Copy the file again.")
        return found

    def _unreadable(self, name: str, error: object) -> WeightsError:
        return WeightsError(f"{self._path} lacks a readable {name[:80]!r}: {error}. Copy the file again.")
