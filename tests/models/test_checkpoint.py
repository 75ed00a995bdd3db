"""Checkpoints: what is found and read, and how wrong ones are refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from flexray import folder
from flexray.errors import ConfigError
from flexray.models import backbone
from flexray.models.options import Model
from tests.models.saved import TOKENS, plain, save


def logits(path: Path, cache: Path, **options) -> torch.Tensor:
    """What the converted checkpoint answers."""
    converted = backbone.prepare(Model(path=str(path), **options), cache)
    return backbone.load(converted).model(input_ids=TOKENS).logits


def test_a_sharded_checkpoint_gives_the_same(tmp_path):
    path = save(tmp_path / "model", shard="50KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(path, tmp_path / "cache"), plain(path)(input_ids=TOKENS).logits)


def unpacked(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """MXFP4 by its definition: two values of 4 bits a byte, low bits first, and a power of two for each 32 of them."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = torch.cat([values, -values])
    pairs = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], -1).flatten(-2)
    return (pairs * 2.0 ** (scales[..., None].float() - 127)).flatten(-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_checkpoint_is_unpacked(tmp_path, dtype):
    config = AutoConfig.for_model(**folder.load("models/families", "gpt_oss", "")().example() | {"intermediate_size": 32})
    weights = {name: t.clone() for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for name in [n for n in weights if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        E, into, out = weights.pop(name).shape
        weights[f"{name}_blocks"] = torch.randint(0, 256, (E, out, into // 32, 16), generator=generator, dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.randint(120, 126, (E, out, into // 32), generator=generator, dtype=torch.uint8)
    path = tmp_path / "model"
    config.save_pretrained(path)
    raw = json.loads((path / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router", "lm_head"]}
    (path / "config.json").write_text(json.dumps(raw))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    loaded = backbone.load(backbone.prepare(Model(path=str(path), dtype=dtype), tmp_path / "cache"))
    for block in loaded.blocks:
        name = f"{block.name}.experts.down_proj"
        whole = unpacked(weights[f"{name}_blocks"], weights[f"{name}_scales"])
        assert torch.equal(block.experts.down_proj.float(), whole.transpose(1, 2))
        assert block.experts.down_proj.dtype == loaded.dtype


CODE = """
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
class MineConfig(Qwen2MoeConfig):
    model_type = "mine_moe"
class MineForCausalLM(Qwen2MoeForCausalLM):
    config_class = MineConfig
"""


def test_code_of_a_checkpoint_runs_only_when_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = save(tmp_path / "model")
    # Transformers splits and fuses experts by model type; of an unknown type, weights are stored as the model holds them.
    fused = {name: tensor.clone() for name, tensor in plain(path).state_dict().items()}
    save_file(fused, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    auto = {"AutoConfig": "code.MineConfig", "AutoModelForCausalLM": "code.MineForCausalLM"}
    (path / "config.json").write_text(json.dumps(config | {"model_type": "mine_moe", "auto_map": auto}))
    (path / "code.py").write_text(CODE)
    with pytest.raises(ConfigError, match=r"^model.trust_remote_code: expected true for .* got False; set it to true if you"):
        backbone.prepare(Model(path=str(path)), tmp_path / "cache")
    model = Model(path=str(path), trust_remote_code=True)
    loaded = backbone.load(backbone.prepare(model, tmp_path / "cache"))
    assert type(loaded.model).__name__ == "MineForCausalLM"
    assert len(loaded.blocks) == 2 and loaded.family.name == "general"


def refused(path, tmp_path, **options) -> str:
    with pytest.raises(ConfigError) as refusal:
        backbone.prepare(Model(path=str(path), **options), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("qwen*/"))
    return str(refusal.value)


def test_a_wrong_path_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "model.path: expected tiny, an existing folder, or a hub id" in refused(tmp_path / "none", tmp_path)
    assert "model.path: expected a model folder with a config.json" in refused(tmp_path / "empty", tmp_path)
    assert "model.path: expected a model folder with a config.json" in refused(tmp_path / "file", tmp_path)
    path = save(tmp_path / "model")
    assert refused(path, tmp_path, revision="main").startswith("model.revision: expected none")


def test_a_hub_that_cannot_be_reached_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    said = refused("nobody/nothing", tmp_path)
    assert said.startswith("model.path: expected a folder, or a hub id that can be reached, got ")
    assert "nobody/nothing (LocalEntryNotFoundError: " in said
    assert "check the spelling" in said


def test_models_of_other_kinds_are_refused(tmp_path):
    kinds = {
        "llama": {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        "t5": {"vocab_size": 64, "d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 16},
    }
    for kind, shape in kinds.items():
        AutoConfig.for_model(kind, **shape).save_pretrained(tmp_path / kind)
    assert "LlamaForCausalLM, which is dense" in refused(tmp_path / "llama", tmp_path)
    assert "model.path: expected a causal language model, got 't5'" in refused(tmp_path / "t5", tmp_path)
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    assert refused(tmp_path / "t5", tmp_path).startswith("model.path: expected a config.json that transformers can read")


def test_broken_folders_are_refused(tmp_path):
    path = save(tmp_path / "model", shard="50KB")
    shards = sorted(path.glob("model-*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    assert refused(path, tmp_path).startswith("model.path: expected weights that can be read")
    shards[1].write_bytes(b"\x00" * len(whole))
    assert refused(path, tmp_path).startswith("model.path: expected weights that can be read")
    shards[1].unlink()
    assert f"got 'no {shards[1].name}'; complete the folder" in refused(path, tmp_path)
    for shard in path.glob("*.safetensors*"):
        shard.unlink()
    torch.save({}, path / "pytorch_model.bin")
    assert "pickled weights are not loaded" in refused(path, tmp_path)
    (path / "config.json").write_text("{")
    assert refused(path, tmp_path).startswith("model.path: expected a readable config.json")


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    path = save(tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layers.1.self_attn.q_proj" not in n}, path / "model.safetensors")
    assert "weights for every parameter, got '2 missing: model.layers.1.self_attn.q_proj.bias" in refused(path, tmp_path)
    config = json.loads((path / "config.json").read_text())
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert refused(path, tmp_path).startswith("model.path: expected weights that can be read")
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "expected weights that are not quantised (or mxfp4 or fp8), got 'gptq'" in refused(path, tmp_path)


def test_transformers_is_silent_and_left_as_it_was(tmp_path, capfd):
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    path = save(tmp_path / "model")
    capfd.readouterr()
    logits(path, tmp_path / "cache")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
