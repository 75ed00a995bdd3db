"""Files that only who has the key can read, or change unseen: AES-256-GCM, in chunks, each bound to its place and to whose file it is.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): a chunk's nonce is the file's random prefix, the chunk's number, and
whether it is the last, so that no chunk can be left out, moved, or cut off. Who the file belongs to is authenticated with each chunk.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from flexray.errors import expected
from flexray.local_files import contents

MAGIC = b"flexray sealed 1"
CHUNK, TAG, PREFIX, MARK = 1 << 20, 16, 7, 8
LARGEST = 1 << 10
"""Bytes of a file with a key."""
EXTRA = "pip install 'flexray[encryption]'"


class TamperedError(ValueError):
    """A sealed file that is not as it was written, or not whose it should be."""


class Seal:
    """Seals and opens files with one key of 32 bytes."""

    def __init__(self, key: bytes):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._mark = blake2b(key, digest_size=MARK, person=b"flexray key").digest()

    def writer(self, file: IO[bytes], about: str) -> SealingFile:
        """Seals what is written to it, into `file`; about: whose it is. Close it."""
        prefix = os.urandom(PREFIX)
        file.write(MAGIC + self._mark + prefix)
        return SealingFile(self._cipher, file, prefix, about.encode())

    def reader(self, file: IO[bytes], about: str) -> io.BufferedReader:
        """What was sealed, as a file; raises TamperedError, before giving out anything that is not as it was."""
        head = file.read(len(MAGIC) + MARK + PREFIX)
        magic, mark, prefix = head[: len(MAGIC)], head[len(MAGIC) : -PREFIX], head[-PREFIX:]
        if magic != MAGIC:
            raise TamperedError("it is not encrypted, or was cut short")
        if mark != self._mark:
            raise TamperedError("it was encrypted with another key")
        return io.BufferedReader(_Opened(self._chunks(file, prefix, about.encode())), CHUNK)

    def plain(self, size: int) -> int:
        """Bytes that were sealed in a file of so many."""
        inner = size - len(MAGIC) - MARK - PREFIX
        return inner - TAG * max(1, -(-inner // (CHUNK + TAG)))

    def _chunks(self, file: IO[bytes], prefix: bytes, about: bytes) -> Iterator[bytes]:
        from cryptography.exceptions import InvalidTag

        number, now = 0, file.read(CHUNK + TAG)
        while True:
            then = file.read(CHUNK + TAG)
            try:
                yield self._cipher.decrypt(_nonce(prefix, number, not then), now, about)
            except InvalidTag:
                raise TamperedError("it was changed or cut short, or it is another client's or round's") from None
            if not then:
                return
            number, now = number + 1, then


class SealingFile:
    """A file to write to."""

    def __init__(self, cipher: Any, file: IO[bytes], prefix: bytes, about: bytes):
        self._cipher, self._file, self._prefix, self._about = cipher, file, prefix, about
        self._held, self._number = bytearray(), 0

    def write(self, data: Any) -> None:
        """As of any file."""
        rest = memoryview(data).cast("B")
        while rest:
            take = CHUNK - len(self._held)
            self._held += rest[:take]
            rest = rest[take:]
            if len(self._held) == CHUNK and rest:
                self._seal(last=False)

    def close(self) -> None:
        """Seals the last chunk: without it the file is not whole. What comes later makes a new chunk first."""
        self._seal(last=True)

    def _seal(self, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._prefix, self._number, last), bytes(self._held), self._about))
        self._held.clear()
        self._number += 1


class _Opened(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def seal_of(file: Path | None) -> Seal | None:
    """With the key in a file: 32 bytes, or these as 64 hexadecimal digits. Raises ConfigError."""
    if file is None:
        return None
    path = file.expanduser()
    try:
        text, mode = contents(path, LARGEST), path.stat().st_mode
    except OSError as e:
        mend = "make one with `openssl rand -hex 32`, at the same path on every node"
        raise expected("storage.key", "a file with a key", str(file), f"{e.strerror}; {mend}") from e
    if mode & 0o077:
        raise expected("storage.key", "a file that only its owner can read", f"mode {mode & 0o777:o}", f"chmod 600 {file}")
    key = _hex(text) or text
    if len(key) != 32:
        raise expected("storage.key", "32 bytes, or 64 hexadecimal digits", f"{len(text)} bytes", "openssl rand -hex 32")
    try:
        return Seal(key)
    except ImportError:
        raise expected("storage.key", "the package cryptography to be installed", None, EXTRA) from None


def _hex(text: bytes) -> bytes | None:
    try:
        return bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        return None


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
