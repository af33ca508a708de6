"""Members of zip files, as PyTorch and Keras write them: stored, not compressed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, BinaryIO

from models.weights.errors import WeightsError


class Archive:
    """A zip file whose members lie in it as they are; together they are no larger than the file.

    Members are only ever read into memory, so that their names need no checking: none becomes a path on disk.

    Raises:
        WeightsError: damaged, encrypted, compressed, or with members that claim more than the file has.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        size = file.seek(0, 2)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise WeightsError(f"{path} is a damaged zip file: {error}. Copy it again.") from error
        members = self._zip.infolist()
        self.names = [member.filename for member in members]
        for member in members:
            if member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(
                    f"{path} holds {member.filename!r} compressed or encrypted. PyTorch and Keras store tensors as "
                    "they are: save the file with them again."
                )
        # Members may share bytes of the file, which would multiply it in memory.
        if sum(member.file_size for member in members) > size or len(set(self.names)) < len(self.names):
            raise WeightsError(f"{path} is a damaged zip file: its members are more than the file. Copy it again.")

    def open(self, name: str) -> IO[bytes]:
        """A member for reading and seeking."""
        try:
            return self._zip.open(name)
        except (zipfile.BadZipFile, NotImplementedError, KeyError, ValueError, OSError, RuntimeError) as error:
            raise WeightsError(f"{self._path} lacks a readable {name!r}: {error}. Copy the file again.") from error

    def read(self, name: str) -> bytes:
        """All of a member, its checksum compared."""
        with self.open(name) as member:
            try:
                return member.read()
            except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
                raise WeightsError(f"{self._path} holds a damaged {name!r}: {error}. Copy the file again.") from error
