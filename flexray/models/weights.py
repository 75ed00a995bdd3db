"""A model's tensors in one file that every process of a node maps into memory.

The file is plain safetensors. It is written here, not by the library, which keeps offsets to 8 bytes only: a matrix
kernel gives other bits for memory that is aligned otherwise, and these must be those of freshly allocated tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

ALIGNMENT = 64
DTYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slot:
    """A place of a model that holds a tensor."""

    name: str
    owner: nn.Module
    attribute: str
    tensor: Tensor

    def fill(self, tensor: Tensor) -> None:
        """Puts another tensor here; a parameter stays one."""
        if self.attribute in self.owner._buffers:
            self.owner._buffers[self.attribute] = tensor
        else:
            setattr(self.owner, self.attribute, tensor)


def slots(model: nn.Module) -> Iterator[Slot]:
    """Every parameter, every buffer (also those that state dicts leave out), every tensor kept as a plain attribute."""
    for path, module in model.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        for attribute, value in held.items():
            if isinstance(value, Tensor):
                yield Slot(f"{path}.{attribute}".lstrip("."), module, attribute, value)


def unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, by its first name; and every further name of a tied one, with that first name."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for slot in slots(model):
        if id(slot.tensor) in first:
            aliases[slot.name] = first[id(slot.tensor)]
        else:
            first[id(slot.tensor)] = slot.name
            tensors[slot.name] = slot.tensor
    return tensors, aliases


def write(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, tensors aligned to 64 bytes as far as their sizes allow, without a second copy in memory."""
    # No holes are allowed between tensors, so those of uneven size go last.
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().tofile(file)


def read(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The file's tensors. On the CPU they are views of one private mapping: no memory of their own until written to."""
    with safe_open(path, framework="pt", device=device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)


def attach(model: nn.Module, tensors: dict[str, Tensor], aliases: dict[str, str]) -> None:
    """Puts the tensors in their places, frozen; tied places share one parameter."""
    places = list(slots(model))
    assert {s.name for s in places} == tensors.keys() | aliases.keys(), "the file is of another model"
    made: dict[str, Tensor] = {}
    for slot in places:
        name = aliases.get(slot.name, slot.name)
        assert tensors[name].shape == slot.tensor.shape, slot.name
        if name not in made:
            parameter = isinstance(slot.tensor, nn.Parameter)
            made[name] = nn.Parameter(tensors[name], requires_grad=False) if parameter else tensors[name]
        slot.fill(made[name])


def left_on_meta(model: nn.Module) -> list[str]:
    """Names of tensors without data, also those inside lists and dicts that modules keep."""
    found = [s.name for s in slots(model) if s.tensor.is_meta]
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            if attribute not in ("_parameters", "_buffers") and any(isinstance(t, Tensor) and t.is_meta for t in items):
                found.append(f"{path}.{attribute}")
    return found
