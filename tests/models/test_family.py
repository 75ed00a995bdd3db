"""Families: where the blocks are, how their routers score, where adapters go, and what is refused."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flexray import folder
from flexray.errors import ConfigError
from flexray.models import experts
from flexray.models.family import choose_family
from flexray.models.probing import match_scores

ALL = list(folder.listing("models/families"))
SCORES = {
    "deepseek_v2": ("softmax_all", 2.5),
    "deepseek_v3": ("sigmoid", 2.5),
    "general": ("softmax_all", 1.0),
    "gpt_oss": ("softmax_topk", 1.0),
    "granitemoe": ("softmax_topk", 1.0),
    "mixtral": ("softmax_topk", 1.0),
    "olmoe": ("softmax_all", 1.0),
    "qwen2_moe": ("softmax_all", 1.0),
    "qwen3_moe": ("softmax_topk", 1.0),
}
TINY = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
NARROW = {"moe_intermediate_size": 16, "intermediate_size": 48, "num_experts_per_tok": 2}
FUSED = {"intermediate_size": 16, "num_experts_per_tok": 2}
MAMBA = {"mamba_d_state": 8, "mamba_expand": 2}
NEMOTRON = {
    "layers_block_type": ["mamba", "attention", "moe", "moe"], "num_hidden_layers": None, "head_dim": 8, "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 16, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
    "chunk_size": 8,
}  # fmt: skip
MIXED = ["linear_attention", "full_attention"]

# model type: what its config needs, how its router scores, and in how many of its layers q, k and v are
OTHERS = {
    "afmoe": ({**NARROW, "num_experts": 4, "num_dense_layers": 1, "head_dim": 8}, "sigmoid", 2),
    "aria_text": ({**FUSED, "moe_num_experts": 4, "moe_num_shared_experts": 1, "moe_topk": 2}, "softmax_topk", 2),
    "cohere2_moe": ({**FUSED, "num_experts": 4, "head_dim": 8}, "softmax_topk", 2),
    "dots1": ({**NARROW, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}, "sigmoid", 2),
    "ernie4_5_moe": ({**NARROW, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1}, "softmax_topk", 2),
    "flex_olmo": ({**FUSED, "num_experts": 4}, "softmax_all", 2),
    "glm4_moe": ({**NARROW, "n_routed_experts": 4, "first_k_dense_replace": 1, "head_dim": 8}, "sigmoid", 2),
    "granitemoehybrid": (
        {**FUSED, "num_local_experts": 4, "shared_intermediate_size": 16, "layer_types": ["mamba", "attention"],
         "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
        "softmax_topk", 1,
    ),
    "granitemoeshared": ({**FUSED, "num_local_experts": 4, "shared_intermediate_size": 16}, "softmax_topk", 2),
    "hunyuan_v1_moe": ({**FUSED, "num_experts": 4, "moe_topk": 2, "head_dim": 8}, "softmax_topk", 2),
    "jamba": (
        {**FUSED, **MAMBA, "num_experts": 4, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
         "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False},
        "softmax_all", 1,
    ),
    "lfm2_moe": (
        {**NARROW, "num_experts": 4, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]}, "sigmoid", 1,
    ),
    "minimax": ({**FUSED, "num_local_experts": 4, "head_dim": 8, "layer_types": MIXED}, "softmax_topk", 1),
    "nemotron_h": ({**NARROW, **NEMOTRON, "moe_latent_size": None}, "sigmoid", 1),
    "phimoe": ({**FUSED, "num_local_experts": 4}, "other", 2),
    "qwen3_next": (
        {**NARROW, "num_experts": 4, "shared_expert_intermediate_size": 16, "head_dim": 8, "layer_types": MIXED,
         "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "softmax_topk", 1,
    ),
}  # fmt: skip
REFUSED = {
    "llama": ({"intermediate_size": 16}, "a mixture-of-experts model, got 'LlamaForCausalLM, which is dense'"),
    "llama4_text": (
        {"intermediate_size": 16, "intermediate_size_mlp": 16, "num_local_experts": 4, "head_dim": 8},
        "an MoE of transformers' experts interface, got 'Llama4ForCausalLM, an MoE outside of it'",
    ),
    "gemma4_text": (
        {**FUSED, "moe_intermediate_size": 16, "num_experts": 4, "top_k_experts": 2, "enable_moe_block": True,
         "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 64},
        "its experts in a block right below a decoder layer",
    ),
    "nemotron_h": ({**NARROW, **NEMOTRON, "moe_latent_size": 16}, "experts of width 16 in a block of width 32"),
}  # fmt: skip


def build(model_type: str, meta: bool = False, **changes):
    known = {k: v for k, v in {**TINY, **changes}.items() if not (k == "num_hidden_layers" and v is None)}
    config = AutoConfig.for_model(model_type, **known)
    torch.manual_seed(0)
    with torch.device("meta" if meta else "cpu"):
        return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def example(name: str, meta: bool = False, **changes):
    family = folder.load("models/families", name, "model.family")()
    return family, build(meta=meta, **{**family.example(), **changes})


@pytest.mark.parametrize("name", ALL)
class TestEveryFamily:
    def test_example_is_small_and_chosen_by_its_type(self, name):
        family, model = example(name)
        assert sum(p.nbytes for p in model.parameters()) <= 1e6
        assert choose_family(model.config).name == name == family.name

    def test_blocks_are_those_of_the_sparse_layers(self, name):
        family, model = example(name)
        first = model.config.to_dict().get("first_k_dense_replace", 0)
        blocks = family.blocks(model)
        assert [b.layer for b in blocks] == list(range(first, model.config.num_hidden_layers))
        for b in blocks:
            assert model.get_submodule(b.name) is b.module
            assert (b.width, b.expert_width) == (32, 16)
            assert b.n_experts == len(b.experts.down_proj)

    @pytest.mark.parametrize("meta", [False, True])
    def test_router_is_probed_with_and_without_weights(self, name, meta):
        family, model = example(name, meta)
        assert {(b.scores, b.scale) for b in family.blocks(model)} == {SCORES[name]}

    def test_router_row_makes_the_logit(self, name):
        family, model = example(name)
        block = family.blocks(model)[-1]
        x_ND = torch.randn(5, block.width, generator=torch.Generator().manual_seed(1))
        logits_NE, _, _ = block.router(x_ND)
        bias = getattr(block.router, "bias", None)
        expected_N = x_ND @ block.router_row(2) + (0 if bias is None else bias[2])
        torch.testing.assert_close(logits_NE[:, 2], expected_N)

    def test_every_layer_gets_adapters(self, name):
        family, model = example(name)
        sites = family.adapter_sites(model, ("q", "k", "v", "o"))
        assert {path.split(".")[2] for path in sites} == {str(i) for i in range(model.config.num_hidden_layers)}
        assert all(model.get_submodule(path) is linear for path, linear in sites.items())
        assert not [line for line in family.notes(model, ("q", "k", "v", "o")) if "adapters" in line]


def test_roles_of_plain_and_of_latent_attention():
    family, model = example("qwen2_moe")
    at = "model.layers.0.self_attn."
    assert list(family.adapter_sites(model, ("v", "q")))[:2] == [at + "q_proj", at + "v_proj"]
    family, model = example("deepseek_v3")
    latent = [at + "kv_a_proj_with_mqa", at + "kv_b_proj"]
    assert list(family.adapter_sites(model, ("k",)))[:2] == latent
    assert list(family.adapter_sites(model, ("q", "v")))[:3] == [at + "q_b_proj", *latent]
    family, model = example("deepseek_v2")
    assert next(iter(family.adapter_sites(model, ("q",)))) == at + "q_proj"


def test_renormalised_top_k_is_softmax_topk():
    family, model = example("qwen2_moe", norm_topk_prob=True)
    assert family.blocks(model)[0].scores == "softmax_topk"
    family, model = example("qwen3_moe", norm_topk_prob=False)
    assert family.blocks(model)[0].scores == "softmax_all"


def test_scores_match_by_hand():
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0]])
    index = torch.tensor([[2, 1], [2, 0]])
    e = 2.718281828
    topk = torch.tensor([[e / (e + 1), 1 / (e + 1)], [e**2 / (e**2 + 1), 1 / (e**2 + 1)]])
    assert match_scores(logits, 3 * topk, index) == ("softmax_topk", 3.0)
    full = torch.tensor([[e**2, e], [e**3, e]]) / torch.tensor([[1 + e + e**2], [1 + e + e**3]])
    assert match_scores(logits, full, index) == ("softmax_all", 1.0)
    assert match_scores(logits, torch.sigmoid(logits.gather(1, index)), index) == ("sigmoid", 1.0)
    assert match_scores(logits, torch.tensor([[0.5, 0.5], [0.9, 0.1]]), index) == ("other", 1.0)


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_families_of_the_interface_work(model_type):
    experts.register()
    config, scores, adapted = OTHERS[model_type]
    model = build(model_type, **config)
    family = choose_family(model.config)
    assert family.name == "general"
    blocks = family.blocks(model)
    assert {b.scores for b in blocks} == {scores}
    assert {b.scores for b in family.blocks(build(model_type, meta=True, **config))} == {scores}
    total = model.config.num_hidden_layers
    notes = family.notes(model, ("q", "k", "v"))
    assert any(f"MoE blocks in {len(blocks)} of {total} layers" in line for line in notes) == (len(blocks) < total)
    assert any(f"adapters on q, k, v in {adapted} of {total} layers" in line for line in notes) == (adapted < total)
    for b in blocks:
        for p in b.experts.parameters():
            p.normal_(std=0.2)
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    model.set_experts_implementation("eager")
    reference = model(input_ids=tokens, use_cache=False).logits
    model.set_experts_implementation(experts.NAME)
    torch.testing.assert_close(model(input_ids=tokens, use_cache=False).logits, reference, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_served_is_refused(model_type):
    config, says = REFUSED[model_type]
    for meta in (True, False):
        model = build(model_type, meta=meta, **config)
        with pytest.raises(ConfigError, match=r"^model.path: expected ") as refusal:
            choose_family(model.config).blocks(model)
        assert says in str(refusal.value)


def test_experts_that_see_a_changed_input_are_refused():
    family, model = example("mixtral")
    block = model.model.layers[0].mlp
    block.gate.register_forward_pre_hook(lambda _, args: (args[0],))
    forward = block.forward
    block.forward = lambda hidden_states: forward(2 * hidden_states)
    with pytest.raises(ConfigError, match="experts that see it changed"):
        family.blocks(model)


def test_unknown_attention_is_refused():
    family, model = example("qwen2_moe")
    for layer in model.model.layers:
        layer.self_attn.qkv = layer.self_attn._modules.pop("q_proj")
    with pytest.raises(ConfigError, match=r"model.path: expected attention with the role 'q'.*model.family to that .py"):
        family.adapter_sites(model, ("q", "k"))
    assert family.adapter_sites(model, ("k",))


def test_a_family_of_the_users_own_names_its_roles(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from flexray.models.family import Family\n"
        "class Mine(Family):\n"
        "    roles = {'q': ('qkv',)}\n"
        "    def example(self):\n        return {'model_type': 'qwen2_moe'}\n"
    )
    _, model = example("qwen2_moe")
    for layer in model.model.layers:
        layer.self_attn.qkv = layer.self_attn._modules.pop("q_proj")
    family = choose_family(model.config, str(mine))
    assert [p.split(".")[-1] for p in family.adapter_sites(model, ("q",))] == ["qkv", "qkv"]
    source = mine.read_text()
    mine.unlink()
    assert type(choose_family(model.config, str(mine), {str(mine): source})).__name__ == "Mine"


def test_a_wrong_family_is_refused():
    _, model = example("qwen2_moe")
    with pytest.raises(ConfigError, match=r"model.family: expected a family of 'qwen2_moe' models.*mixtral"):
        choose_family(model.config, "mixtral")
    with pytest.raises(ConfigError, match="did you mean 'mixtral'"):
        choose_family(model.config, "mixtrl")
    assert choose_family(model.config, "general").name == "general"


def test_families_load_without_torch():
    code = (
        "import sys; from flexray import folder\n"
        "for n in folder.listing('models/families'): folder.load('models/families', n, 'model.family')\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
