"""Tensors in a file and back: plain safetensors, without a second copy in memory.

Every tensor is read into memory of its own, aligned like any new one's: so a state that was read and one that stayed in memory give
the same bits, whatever is made of them.

A digest of all that is in a file, and of whose it is, stands at a fixed place of its header: a file that was cut, changed, or put in
another's place is not taken for the one it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexray.models.weights import ALIGNMENT, DTYPES
from flexray.sim.private.sealed import Seal, TamperedError
from flexray.state import State

OWNERS = 0o600
"""Mode of a new file: for its owner's eyes."""
_NAMES = {name: dtype for dtype, name in DTYPES.items()}
_BEGINS = b'{"__metadata__":{"sha256":"'
_NO_DIGEST = b"0" * 64
_LARGEST_HEADER = 100 << 20
"""Bytes; as the library has it."""


class DamagedError(Exception):
    """A file is not as it was written, or not the one that was asked for."""


class _Slot(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def write(
    path: Path | str,
    tensors: State,
    told: Mapping[str, str] | None = None,
    mode: int = OWNERS,
    about: str = "",
    seal: Seal | None = None,
) -> None:
    """Writes the file, over what may be there: pages that a file has already are written several times as fast as new ones.

    `told` are words to go with the tensors; `about`: whose they are, which must be known to read them; seal: encrypts them.
    """
    slots = tuple(_Slot(name, tuple(t.shape), t.dtype) for name, t in tensors.items())
    header, pieces = _header(slots, tuple((told or {}).items())), [_bytes(t) for t in tensors.values()]
    digest = _digest(header[8:], about, pieces)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:
        into: Any = seal.writer(file, about) if seal else file
        into.write(header[: 8 + len(_BEGINS)] + digest + header[8 + len(_BEGINS) + len(digest) :])
        for piece in pieces:
            into.write(piece)
        if seal:
            into.close()
        file.truncate()


def read(path: Path | str, about: str = "", seal: Seal | None = None) -> State:
    """All tensors of a file. Raises DamagedError if they are not those that were written about this."""
    return read_with(path, about, seal)[0]


def read_with(path: Path | str, about: str = "", seal: Seal | None = None) -> tuple[State, dict[str, str]]:
    """All tensors of a file, and the words that go with them."""
    with open(path, "rb") as own:
        size = os.fstat(own.fileno()).st_size
        if seal is None:
            return _read(own, size, about)
        try:
            return _read(seal.reader(own, about), seal.plain(size), about)
        except TamperedError as e:
            raise DamagedError(str(e)) from e


def _read(file: Any, size: int, about: str) -> tuple[State, dict[str, str]]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LARGEST_HEADER):
        raise DamagedError("it ends within its header")
    text = file.read(length)
    digest, plain = text[len(_BEGINS) :][: len(_NO_DIGEST)], _without_digest(text)
    slots, told = _slots(plain)
    found = {slot.name: torch.empty(0, dtype=slot.dtype) for slot in slots}
    if size != 8 + length + sum(found[name].itemsize * torch.Size(shape).numel() for name, shape, _ in slots):
        raise DamagedError("it ends too early or too late")
    found = {slot.name: torch.empty(slot.shape, dtype=slot.dtype) for slot in slots}
    pieces = [_bytes(t) for t in found.values()]
    for piece in pieces:
        file.readinto(piece)
    if digest != _digest(plain, about, pieces):
        raise DamagedError("its content does not fit its digest")
    return found, dict(told)


def _digest(header: bytes, about: str, pieces: list[memoryview]) -> bytes:
    """In hex, of a header without one, of whose the file is, and of the tensors."""
    made = hashlib.sha256(header)
    made.update(f"{len(about)} {about}".encode())
    for piece in pieces:
        made.update(piece)
    return made.hexdigest().encode()


def _without_digest(header: bytes) -> bytes:
    if not header.startswith(_BEGINS):
        raise DamagedError("it does not begin with a digest")
    return _BEGINS + _NO_DIGEST + header[len(_BEGINS) + len(_NO_DIGEST) :]


@lru_cache(64)
def _header(slots: tuple[_Slot, ...], told: tuple[tuple[str, str], ...]) -> bytes:
    """The same for all clients of a run."""
    header: dict[str, Any]
    header, end = {"__metadata__": {"sha256": _NO_DIGEST.decode(), "format": "pt", **dict(told)}}, 0
    for name, shape, dtype in slots:
        start, end = end, end + torch.empty((), dtype=dtype).itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@lru_cache(64)
def _slots(text: bytes) -> tuple[tuple[_Slot, ...], tuple[tuple[str, str], ...]]:
    """In the order of their places, between which there are no gaps; and the words beside them."""
    try:
        said = json.loads(text)
        told = {name: str(word) for name, word in said.pop("__metadata__").items() if name not in ("sha256", "format")}
        placed = sorted(said.items(), key=lambda item: item[1]["data_offsets"])
        slots = tuple(_Slot(name, tuple(slot["shape"]), _NAMES[slot["dtype"]]) for name, slot in placed)
        if not all(isinstance(n, int) and n >= 0 for slot in slots for n in slot.shape):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError("its header cannot be read") from None
    return slots, tuple(told.items())


def _bytes(t: Tensor) -> memoryview:
    flat: Any = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
