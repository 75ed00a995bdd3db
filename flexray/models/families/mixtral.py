"""Mixtral: softmax over the chosen experts, no shared expert."""

from typing import Any, ClassVar

from flexray.models.family import Family


class Mixtral(Family):
    """Found by its structure."""

    model_types: ClassVar = ("mixtral",)

    def example(self) -> dict[str, Any]:
        return {
            "model_type": "mixtral",
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "intermediate_size": 16,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "bos_token_id": None,
            "eos_token_id": None,
        }
