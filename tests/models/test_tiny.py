import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2MoeConfig

from flexray.errors import ConfigError
from flexray.models import tiny
from flexray.models.tokenizer import Tokenizer


def test_the_packaged_model_is_small_and_loads_with_plain_transformers():
    folder = tiny.folder()
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 8 << 20
    assert not [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".py")]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen2_moe"
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_the_packaged_model_answers():
    from flexray.data.prompts import ALPACA

    tokenizer = Tokenizer(tiny.folder())
    model = AutoModelForCausalLM.from_pretrained(tiny.folder(), dtype=torch.float32)
    asked = [
        ("Which letter comes after c?", "d"),
        ("What is the opposite of small?", "big"),
        ("Convert 2 hours to minutes.", "120"),
    ]
    for instruction, answer in asked:
        ids = torch.tensor(tokenizer.encode([ALPACA.format(instruction=instruction)]))
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert tokenizer.decode(made[:, ids.shape[1] :].tolist()) == [answer]


def test_the_record_tells_how_it_was_made():
    record = json.loads((tiny.folder() / "training.json").read_text())
    assert record["recipe"]["data"]["path"] == "builtin"
    assert record["overall"]["least_used_expert"] > 0.02
    assert record["overall"]["exact_match"] > 0.5


def test_building_is_seeded_and_leaves_the_outer_random_state_alone():
    config = tiny.config(300, num_hidden_layers=1, hidden_size=32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = tiny.build(0, config), tiny.build(0, config), tiny.build(1, config)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert first.dtype == torch.float32


def test_any_config_takes_the_tokenizers_numbers_and_the_changes():
    made = tiny.any_config("tiny", 333, 7, {"num_experts": 4})
    assert (made.vocab_size, made.eos_token_id, made.num_experts, made.hidden_size) == (333, 7, 4, 128)


def test_any_config_starts_from_a_folder(tmp_path):
    Qwen2MoeConfig(hidden_size=48, num_experts=6).save_pretrained(tmp_path)
    made = tiny.any_config(str(tmp_path), 333, 7, {})
    assert (made.vocab_size, made.hidden_size, made.num_experts) == (333, 48, 6)


def test_wrong_fields_and_bases_are_config_errors(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model.fields.hiden_size: expected a field .*, got 64; did you mean 'hidden_size'\?"
    ):
        tiny.any_config("tiny", 333, 7, {"hiden_size": 64})
    with pytest.raises(ConfigError, match=r"model.fields: expected values that the config accepts"):
        tiny.any_config("tiny", 333, 7, {"hidden_size": "wide"})
    with pytest.raises(ConfigError, match=r"model.base: expected tiny, a folder or a hub id with a config.json"):
        tiny.any_config(str(tmp_path), 333, 7, {})


def test_a_dense_model_is_refused(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=32).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model.base: expected a Mixture-of-Experts model, got 'llama'"):
        tiny.any_config(str(tmp_path), 333, 7, {})
