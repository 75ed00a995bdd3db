"""Tensors in a file and back: plain safetensors, without a second copy in memory.

Every tensor is read into memory of its own, aligned like any new one's: so a state that was read and one that stayed in memory give
the same bits, whatever is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexray.models.weights import ALIGNMENT, DTYPES
from flexray.sim.private.sealed import Seal
from flexray.state import State

OWNERS = 0o600
"""Mode of a new file: for its owner's eyes."""
_NAMES = {name: dtype for dtype, name in DTYPES.items()}


class Locked(NamedTuple):
    """How a file is encrypted, and whose it is: as another's it does not open."""

    seal: Seal
    about: str


class _Slot(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def write(
    path: Path | str, tensors: State, told: Mapping[str, str] | None = None, mode: int = OWNERS, locked: Locked | None = None
) -> None:
    """Writes the file, over what may be there: pages that a file has already are written several times as fast as new ones.

    `told` are words to go with the tensors. locked: with which key, and whose it is.
    """
    slots = tuple(_Slot(name, tuple(t.shape), t.dtype) for name, t in tensors.items())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:
        into: Any = locked.seal.writer(file, locked.about) if locked else file
        into.write(_header(slots, tuple((told or {}).items())))
        for t in tensors.values():
            into.write(_bytes(t))
        if locked:
            into.close()
        file.truncate()


def read(path: Path | str, locked: Locked | None = None) -> State:
    """All tensors of a file. Raises EOFError if it ends too early, Tampered if it is locked and not as it was written."""
    with open(path, "rb") as own:
        file: Any = locked.seal.reader(own, locked.about) if locked else own
        length = file.read(8)
        text = file.read(int.from_bytes(length, "little"))
        if len(length) < 8 or len(text) < int.from_bytes(length, "little"):
            raise EOFError(f"{path} ends within its header")
        slots = _slots(text)
        found = {slot.name: torch.empty(slot.shape, dtype=slot.dtype) for slot in slots}
        for name, t in found.items():
            if file.readinto(_bytes(t)) < t.nbytes:
                raise EOFError(f"{path} ends within {name}")
    return found


@lru_cache(64)
def _header(slots: tuple[_Slot, ...], told: tuple[tuple[str, str], ...]) -> bytes:
    """The same for all clients of a run."""
    header: dict[str, Any]
    header, end = {"__metadata__": {"format": "pt", **dict(told)}}, 0
    for name, shape, dtype in slots:
        start, end = end, end + torch.empty((), dtype=dtype).itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@lru_cache(64)
def _slots(text: bytes) -> tuple[_Slot, ...]:
    """In the order of their places, between which there are no gaps."""
    said = {name: slot for name, slot in json.loads(text).items() if name != "__metadata__"}
    placed = sorted(said.items(), key=lambda item: item[1]["data_offsets"])
    return tuple(_Slot(name, tuple(slot["shape"]), _NAMES[slot["dtype"]]) for name, slot in placed)


def _bytes(t: Tensor) -> memoryview:
    flat: Any = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
