"""A folder in any file system that pyarrow knows: this machine's, a shared one, s3://…, gs://…, abfs://…, hdfs://…"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from flexray.errors import expected
from flexray.sim.disk import rest

CHUNK = 1 << 22
"""Bytes that are moved at a time."""


@dataclass(frozen=True)
class Place:
    """Every write is whole or absent, and is on the disk (or wherever the file system keeps it) once it returns."""

    files: FileSystem
    path: str

    @classmethod
    def of(cls, where: str, key: str) -> Place:
        """From a path or a URI; `key` is the setting that named it, for errors."""
        try:
            return cls(*FileSystem.from_uri(where if "://" in where else str(Path(where).expanduser().absolute())))
        except (OSError, pa.ArrowException, ValueError) as e:
            reason = str(e).splitlines()[0]
            raise expected(key, "a folder, or a URI that pyarrow knows (s3://…, gs://…)", where, f"{reason}; check it") from e

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine, or mounted like one."""
        return isinstance(self.files, LocalFileSystem)

    def names(self, under: str = "") -> list[str]:
        """The files right in a folder of it, if there is one."""
        found: Any = self.files.get_file_info(FileSelector(self._at(under), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.File)

    def read(self, name: str) -> bytes:
        """A file's contents. Raises FileNotFoundError."""
        with self._there(name) as file:
            return file.read()

    def write(self, name: str, contents: bytes) -> None:
        """A file of these contents."""
        with self._new(name) as file:
            file.write(contents)

    def put(self, name: str, source: Path) -> None:
        """A copy of a file of this machine."""
        with open(source, "rb") as own, self._new(name) as file:
            for chunk in _chunks(own):
                file.write(chunk)

    def get(self, name: str, target: Path, mode: int) -> str:
        """The other way; gives the contents' digest."""
        digest = blake2b(digest_size=16)
        with self._there(name) as file, os.fdopen(_opened(target, mode), "wb") as own:
            for chunk in _chunks(file):
                digest.update(chunk)
                own.write(chunk)
        return digest.hexdigest()

    def delete(self, name: str) -> None:
        """A file that may be gone already."""
        with suppress(FileNotFoundError):
            self.files.delete_file(self._at(name))

    def _there(self, name: str) -> Any:
        """What is no file, such as a device, might never end."""
        found: Any = self.files.get_file_info(self._at(name))
        if found.type != FileType.File:
            raise FileNotFoundError(f"{name} is no file")
        return self.files.open_input_stream(self._at(name))

    @contextmanager
    def _new(self, name: str) -> Iterator[Any]:
        at = self._at(name)
        if not self.local:  # stores of objects show one once it is closed
            self.files.create_dir(at.rpartition("/")[0])
            with self.files.open_output_stream(at) as file:
                yield file
            return
        folder, _, last = at.rpartition("/")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        temporary = f"{folder}/.{last}.tmp"
        with os.fdopen(_opened(temporary, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, at)
        rest(folder)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path


def digest_of(path: Path) -> str:
    """Of a file's contents."""
    digest = blake2b(digest_size=16)
    with open(path, "rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _opened(path: Path | str, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)


def _chunks(file: BinaryIO | Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
