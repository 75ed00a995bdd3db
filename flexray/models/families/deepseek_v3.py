"""DeepSeek-V3 and R1: latent attention, dense first layers, normalised sigmoid in groups, a shared expert."""

from typing import Any, ClassVar

from flexray.models.family import Family


class DeepseekV3(Family):
    """Found by its structure."""

    model_types: ClassVar = ("deepseek_v3",)

    def example(self) -> dict[str, Any]:
        return {
            "model_type": "deepseek_v3",
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
            "routed_scaling_factor": 2.5,
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "bos_token_id": None,
            "eos_token_id": None,
        }
