"""A MoE of a published shape with random weights, and rows for it: what `gpu.py` works on.

The weights go straight into a folder as flexray keeps a converted model, made on the device; there is no checkpoint of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexray.models import backbone as backbones
from flexray.models import tiny, weights
from flexray.models.checkpoint import quiet
from flexray.models.options import Model
from flexray.models.tokenizer import Tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen": {
        "vocab_size": 151_936, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
        "intermediate_size": 5632, "max_position_embeddings": 8192, "rope_theta": 1e6, "tie_word_embeddings": False,
    },
    "tiny": {"vocab_size": 2048},
}  # fmt: skip
SMALL = {
    "vocab_size": 2048, "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8, "layer_types": None,
}  # fmt: skip
"""In a model of which only what does not depend on them is of use."""
FRAME = 3
"""Tokens of the prompt around the question: the built-in tokenizer has one for each of its fixed sentences."""
NO_WEIGHTS = shutil.ignore_patterns("*.safetensors")


def save_model(shape: str, dtype: str, device: str, model: Path, converted: Path) -> None:
    """The folder `model` for `model.path`, without weights, and the one to which flexray would have converted it, with them."""
    if (converted / backbones.WEIGHTS).exists():
        return
    shutil.copytree(tiny.folder(), model, ignore=NO_WEIGHTS, dirs_exist_ok=True)
    changes = {"eos_token_id": 0, "pad_token_id": 1, **SHAPES[shape]}
    config = tiny.config(changes.pop("vocab_size"), **changes)
    config.architectures = ["Qwen2MoeForCausalLM"]
    config.save_pretrained(model)
    with TemporaryDirectory(dir=model.parent) as folder:
        small = _converted_small(config, dtype, Path(folder))
        shutil.copytree(small, converted, ignore=NO_WEIGHTS, dirs_exist_ok=True)
        shutil.copy(model / "config.json", converted)
        buffers = weights.read(small / backbones.WEIGHTS)
    skeleton = backbones.skeleton(_options(model, dtype))
    weights.write(_random(skeleton.model, buffers, device), converted / backbones.WEIGHTS)


def _converted_small(config: Any, dtype: str, folder: Path) -> Path:
    """A small model of the kind, converted: what a conversion notes down is the same, and so are the buffers."""
    shutil.copytree(tiny.folder(), folder / "model", ignore=NO_WEIGHTS)
    with quiet():
        tiny.save(tiny.build(0, type(config).from_dict({**config.to_dict(), **SMALL})), folder / "model", dtype)
    return backbones.prepare(_options(folder / "model", dtype), folder / "cache")


def _options(path: Path, dtype: str) -> Model:
    return Model(path=str(path), dtype=dtype)  # pyright: ignore[reportArgumentType]


def _random(model: nn.Module, buffers: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Matrices from a normal distribution, drawn on the device; norms of one; buffers as they are in any such model."""
    generator, made = torch.Generator(device).manual_seed(0), {}
    for name, t in weights.unique(model)[0].items():
        if not isinstance(t, nn.Parameter):
            made[name] = buffers[name]
        elif t.ndim == 1:
            made[name] = torch.zeros(t.shape, dtype=t.dtype) if name.endswith("bias") else torch.ones(t.shape, dtype=t.dtype)
        else:
            made[name] = torch.empty(t.shape, dtype=t.dtype, device=device).normal_(0, 0.02, generator=generator).cpu()
    return made


def save_rows(file: Path, tokenizer: Tokenizer, tokens: int, count: int) -> None:
    """Rows of random words, each of which is one token: all rows have so many tokens, half of them the response."""
    known = sorted({word.strip() for word in tokenizer.decode([[i] for i in range(tokenizer.vocabulary)])})
    words = [w for w in known if w.isascii() and w.isalpha() and [len(t) for t in tokenizer.encode([w, f" {w}"])] == [1, 1]]
    rng, told = np.random.default_rng(0), tokens // 2
    with file.open("w") as out:
        for _ in range(count):
            asked, answer = (" ".join(rng.choice(words, n)) for n in (tokens - told - FRAME, told - 1))  # and the end
            out.write(json.dumps({"instruction": asked, "output": answer}) + "\n")
