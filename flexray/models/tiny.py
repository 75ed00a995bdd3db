"""The built-in tiny MoE: where it lies, how it is shaped, and a fresh one of any shape to pretrain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexray.errors import ConfigError, did_you_mean, expected

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
    from transformers import AutoConfig

    fitted = {"vocab_size": vocabulary, "eos_token_id": eos, "pad_token_id": eos}
    try:
        found = config(vocabulary) if base == "tiny" else AutoConfig.from_pretrained(base)
        if unknown := sorted(set(changes) - set(found.to_dict())):
            raise expected(
                f"model.{unknown[0]}",
                "a field of the model's config",
                changes[unknown[0]],
                did_you_mean(unknown[0], found.to_dict()),
            )
        return type(found).from_dict({**found.to_dict(), **fitted, **changes})
    except (OSError, ValueError, TypeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(
            f"model: expected a configuration that transformers accepts, got {reason}; mend base or fields"
        ) from e


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
