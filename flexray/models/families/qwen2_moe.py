"""Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, a gated shared expert in every block."""

from typing import Any, ClassVar

from flexray.models.family import Family


class Qwen2Moe(Family):
    """Found by its structure."""

    model_types: ClassVar = ("qwen2_moe",)

    def example(self) -> dict[str, Any]:
        return {
            "model_type": "qwen2_moe",
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "bos_token_id": None,
            "eos_token_id": None,
        }
