"""The frozen backbone: converted once per node into one file, which every process then maps.

A stock checkpoint holds experts one by one, transformers holds them fused, and a dtype cast copies; so the
checkpoint's own files cannot be shared. The converted file can: its pages are the node's page cache, and a stray write
stays in its process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexray import folder as folders
from flexray.models import checkpoint, sound
from flexray.models.family import Block, Family, choose_family
from flexray.models.options import Model

if TYPE_CHECKING:
    import torch
    from torch import nn

LAYOUT = 2
"""Of the cache folder; another number, another folder."""
WEIGHTS = "backbone.safetensors"
FACTS = "facts.json"


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model in evaluation mode, and what is known of its layout."""

    model: nn.Module
    family: Family
    blocks: tuple[Block, ...]
    device: torch.device
    dtype: torch.dtype
    parameters: int
    bytes: int
    """Of parameters and buffers, each counted once."""
    packs: bool = False
    """Whether rows may stand one behind another (see `packing.py`)."""


@dataclass(frozen=True)
class _Facts:
    """What `load` must know besides the config and the weights."""

    dtype: str
    transformers: str
    family: str
    plugins: dict[str, str]
    trust_remote_code: bool
    aliases: dict[str, str]
    packs: bool


def skeleton(model: Model, plugins: Mapping[str, str] | None = None) -> Backbone:
    """The backbone without its weights, on the meta device: for plans and shapes."""
    return _skeleton(model, checkpoint.locate(model, weights=False), plugins)


def prepare(model: Model, cache: Path, plugins: Mapping[str, str] | None = None) -> Path:
    """The folder in `cache` with the converted model; converts it if no process of this node has done so before."""
    from filelock import FileLock

    source = checkpoint.locate(model)
    _skeleton(model, source, plugins)  # what cannot be used is refused before it is read
    sound.check_weights(model, source)
    own = _own_family(model, plugins or {})
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / _key(model, source, cache, own)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _convert(model, source, target, own)
    return target


def load(folder: Path, device: str = "cpu") -> Backbone:
    """The backbone of a prepared folder. On the CPU its weights are mapped: they take no memory of this process's own."""
    import torch

    from flexray.models import experts, packing, weights

    facts = _Facts(**json.loads((folder / FACTS).read_text()))
    experts.register()
    model_options = Model(path=str(folder), trust_remote_code=facts.trust_remote_code)
    config = checkpoint.read_config(model_options, folder)
    model = checkpoint.build(config, folder, facts.trust_remote_code, facts.dtype)
    weights.attach(model, weights.read(folder / WEIGHTS, device), facts.aliases)
    assert not (left := weights.left_on_meta(model)), left
    where = torch.device(device)
    # Grouped kernels of GPUs want bfloat16; of anything else our own forward is the sure one.
    _use_experts(model, "grouped_mm" if where.type == "cuda" and facts.dtype == "bfloat16" else experts.NAME)
    packs = facts.packs and packing.enable(model)
    return replace(_backbone(model, choose_family(model.config, facts.family, facts.plugins), where, facts.dtype), packs=packs)


def _skeleton(model: Model, source: Path, plugins: Mapping[str, str] | None) -> Backbone:
    import torch

    sound.check_layers(model, source)
    config = checkpoint.read_config(model, source)
    with checkpoint.blaming(model, "a config that describes a model", "check config.json"):
        built = checkpoint.build(config, source, model.trust_remote_code, model.dtype)
        sound.check_size(model, source, sum(p.numel() for p in built.parameters()))
    return _backbone(built, choose_family(built.config, model.family, plugins), torch.device("meta"), model.dtype)


def _backbone(model: nn.Module, family: Family, device: torch.device, dtype: str) -> Backbone:
    import torch

    from flexray.models import weights

    tensors, _ = weights.unique(model)
    count = sum(p.numel() for p in model.parameters())
    size = sum(t.nbytes for t in tensors.values())
    return Backbone(model, family, family.blocks(model), device, getattr(torch, dtype), count, size)


def _use_experts(model: Any, name: str) -> None:
    model.set_experts_implementation(name)
    found = {m.config._experts_implementation for m in model.modules() if hasattr(m, "is_transposed")}
    assert found <= {name}, found


def _convert(model: Model, source: Path, target: Path, plugins: dict[str, str]) -> None:
    """Writes the folder beside its place and moves it there whole."""
    from flexray.models import packing, weights

    for left in target.parent.glob(f".{target.name}.*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left)
    making = target.with_name(f".{target.name}.{os.getpid()}")
    making.mkdir()
    try:
        whole = checkpoint.read_model(model, source, checkpoint.read_config(model, source))
        choose_family(whole.config, model.family, plugins).blocks(whole)  # with values: sees more than the skeleton
        tensors, aliases = weights.unique(whole)
        weights.write(tensors, making / WEIGHTS)
        raw = json.loads((source / "config.json").read_text())
        raw.pop("quantization_config", None)  # unpacked by now
        (making / "config.json").write_text(json.dumps(raw))
        for code in source.glob("*.py") if model.trust_remote_code else ():
            shutil.copy(code, making)
        trusted, packs = model.trust_remote_code, packing.works(whole)
        facts = _Facts(model.dtype, _transformers(), model.family, plugins, trusted, aliases, packs)
        (making / FACTS).write_text(json.dumps(asdict(facts)))
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _own_family(model: Model, plugins: Mapping[str, str]) -> dict[str, str]:
    """The source of the family's file, where it is the user's own: by it other nodes have the same family."""
    if not folders.is_file(model.family):
        return {}
    return {model.family: plugins.get(model.family) or folders.read_source(model.family, "model.family")}


def _key(model: Model, source: Path, cache: Path, plugins: Mapping[str, str]) -> str:
    """A folder name that is another one whenever the converted folder would be."""
    files = [source / "config.json", *checkpoint.weight_files(model, source)]
    files += sorted(source.glob("*.py")) if model.trust_remote_code else []
    options = [model.dtype, model.family, model.trust_remote_code]
    sources = [folders.digest(text) for text in plugins.values()]
    says = [LAYOUT, _transformers(), options, sources, [(f.name, _digest(f, cache)) for f in files]]
    return f"{json.loads(files[0].read_text()).get('model_type')}-{hashlib.sha256(json.dumps(says).encode()).hexdigest()[:16]}"


def _digest(file: Path, cache: Path) -> str:
    """The sha256 of a file's content, remembered until the file changes."""
    stat = file.stat()
    identity = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    note = cache / "digests" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if note.exists():
        return note.read_text()
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    note.parent.mkdir(exist_ok=True)
    draft = note.with_suffix(f".{os.getpid()}")
    draft.write_text(found)
    draft.rename(note)
    return found


def _transformers() -> str:
    import transformers

    return transformers.__version__
