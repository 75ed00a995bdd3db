"""Checkpoints of small random models, and what transformers itself makes of them."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flexray import folder
from flexray.models import checkpoint, experts

TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))


def save(path: Path, name: str = "qwen2_moe", shard: str = "1GB", **changes) -> Path:
    """A checkpoint of a family's example with weights large enough that all of them matter."""
    family = folder.load("models/families", name, "model.family")()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**family.example(), **changes}))
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * max(p.shape[-1:], default=1) ** -0.5
    with checkpoint.quiet():
        model.save_pretrained(path, max_shard_size=shard)
    return path


def plain(path: Path, dtype: torch.dtype = torch.float32):
    """The model as transformers itself loads it."""
    experts.register()
    with checkpoint.quiet():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, experts_implementation=experts.NAME)
    return model.eval().requires_grad_(False)
