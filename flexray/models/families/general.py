"""Any model of transformers' experts interface, found by its structure."""

from typing import Any

from flexray.models.family import Family


class General(Family):
    """Serves every `model_type` that has no file of its own."""

    def example(self) -> dict[str, Any]:
        return {
            "model_type": "flex_olmo",
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 128,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }
