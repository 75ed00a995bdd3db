"""gpt-oss: transposed, interleaved, biased and clamped experts; softmax over the chosen ones."""

from typing import Any, ClassVar

from flexray.models.family import Family


class GptOss(Family):
    """Found by its structure."""

    model_types: ClassVar = ("gpt_oss",)

    def example(self) -> dict[str, Any]:
        return {
            "model_type": "gpt_oss",
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "head_dim": 8,
            "intermediate_size": 16,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "initial_context_length": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": None,
            "eos_token_id": None,
        }
