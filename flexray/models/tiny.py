"""The built-in tiny MoE: where it lies, how it is shaped, and a fresh one of any shape to pretrain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexray.errors import did_you_mean, expected

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, Qwen2MoeConfig

SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 256,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
}


def folder() -> Path:
    """Where the packaged model and tokenizer lie."""
    return Path(__file__).parents[1] / "assets" / "tiny"


def config(vocabulary: int, **changes: Any) -> Qwen2MoeConfig:
    """The tiny model's configuration: Qwen2-MoE as in Qwen1.5-MoE, with a shared expert, some 2.5 M parameters."""
    from transformers import Qwen2MoeConfig

    return Qwen2MoeConfig(**{"vocab_size": vocabulary, "bos_token_id": None, **SHAPE, **changes})


def any_config(base: str, vocabulary: int, eos: int, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """The tiny configuration, or that of a folder or hub id, fitted to a tokenizer, with changes by field name."""
    found = config(vocabulary) if base == "tiny" else _found(base)
    known = found.to_dict()
    if unknown := sorted(set(changes) - set(known)):
        name = unknown[0]
        raise expected(f"model.fields.{name}", "a field of the model's config", changes[name], did_you_mean(name, known))
    if not getattr(found, "num_experts_per_tok", None):
        mend = "choose one with experts"
        raise expected("model.base", "a Mixture-of-Experts model", found.model_type, mend)
    if "num_hidden_layers" in changes:
        known.pop("layer_types", None)  # one entry a layer: made anew
    fitted = {"vocab_size": vocabulary, "eos_token_id": eos, "pad_token_id": eos}
    try:
        return type(found).from_dict({**known, **fitted, **changes})
    except Exception as e:  # each family checks its fields in its own way
        reason = " ".join(str(e).split())[:200]
        raise expected("model.fields", "values that the config accepts", dict(changes), f"mend them ({reason})") from e


def _found(base: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise expected("model.base", "tiny, a folder or a hub id with a config.json", base, f"check the path ({reason})") from e


def build(seed: int, config: PreTrainedConfig) -> PreTrainedModel:
    """A model with fresh weights, in float32; the same seed gives the same weights, and no outer random state changes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save(model: PreTrainedModel, folder: Path, dtype: str) -> None:
    """The model as plain transformers loads it: config.json and model.safetensors, in the given dtype."""
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
