"""Grafting: selection against brute force with plain loops, and what a client starts with."""

import pytest
import torch

from flexray.errors import ConfigError
from flexray.models.graft import graft, select
from flexray.models.seats import shapes_of
from flexray.models.selection import lowest, reconstruction_errors
from flexray.parts import Gate, Graft
from tests.models.small import FAMILIES, VOCABULARY, backbone, flex_parts, frozen_weights, plain_expert

LENGTHS = [5, 3, 6, 1]


def rows(lengths: list[int], seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One batch per row, without padding."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randint(VOCABULARY, (1, n), generator=generator), torch.ones(1, n, dtype=torch.long)) for n in lengths]


def padded(batches):
    """The same rows as one right-padded batch."""
    width = max(ids.shape[1] for ids, _ in batches)
    return [tuple(torch.cat([torch.nn.functional.pad(b[i], (0, width - b[i].shape[1])) for b in batches]) for i in (0, 1))]


def seen(model, batches):
    """Per block and row: the tokens, what the routed experts made of them, and the router's (logits, weights, indices)."""
    found = {b.name: [] for b in model.blocks}
    for block in model.blocks:
        routed = []
        handles = [
            block.router.register_forward_hook(lambda m, args, out, routed=routed: routed.append(out)),
            block.experts.register_forward_hook(
                lambda m, args, out, routed=routed, name=block.name: found[name].append((args[0], out, routed.pop()))
            ),
        ]
        for ids, _ in batches:
            model.model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
    return found


def plain_error(block, samples, S: list[int]) -> float:
    """Σ over rows of ‖F(X) − F^S(X)‖_F, token by token."""
    total = 0.0
    for x_ND, out_ND, (logits_NE, _, _) in samples:
        squares = 0.0
        for x_D, out_D, logits_E in zip(x_ND, out_ND, logits_NE.double(), strict=True):
            raw = [float(logits_E[i].sigmoid() if block.scores == "sigmoid" else logits_E[i].exp()) for i in S]
            made = sum(
                r / sum(raw) * plain_expert(block.experts, frozen_weights(block.experts, i), x_D)
                for r, i in zip(raw, S, strict=True)
            )
            squares += float((out_D - made).square().sum())
        total += squares**0.5
    return total


def argmin(values):
    return min(range(len(values)), key=lambda i: values[i])


@pytest.mark.parametrize("family", FAMILIES)
def test_reconstruction_is_the_brute_force_argmin(family):
    model, batches = backbone(family), rows(LENGTHS)
    chosen = select(model, batches, Graft(), seed=0)
    found = seen(model, batches)
    for block in model.blocks:
        errors = [plain_error(block, found[block.name], [i]) for i in range(block.n_experts)]
        assert chosen[block.name] == [argmin(errors)]
        fast = reconstruction_errors(model, batches, {b.name: [] for b in model.blocks})[block.name]
        assert fast == pytest.approx(errors, rel=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_experts_are_the_brute_force_greedy_choice(family):
    model, batches = backbone(family), rows(LENGTHS[:2])
    chosen = select(model, batches, Graft(experts=3), seed=0)
    found = seen(model, batches)
    for block in model.blocks:
        S: list[int] = []
        for _ in range(3):
            rest = [i for i in range(block.n_experts) if i not in S]
            S.append(rest[argmin([plain_error(block, found[block.name], [*S, i]) for i in rest])])
        assert chosen[block.name] == S


@pytest.mark.parametrize("family", FAMILIES)
def test_the_choice_does_not_depend_on_batching_or_padding(family):
    model, batches = backbone(family), rows(LENGTHS)
    start = {b.name: [1] for b in model.blocks}
    apart, together = (reconstruction_errors(model, b, start) for b in (batches, padded(batches)))
    for block in model.blocks:
        assert together[block.name] == pytest.approx(apart[block.name], rel=1e-5)
        assert apart[block.name][1] == float("inf")
    for how in ("reconstruction", "usage", "usage_probability"):
        graft = Graft(select=how, experts=2)
        assert select(model, batches, graft, 0) == select(model, padded(batches), graft, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["usage", "usage_probability"])
def test_usage_counts_choices_or_sums_their_weights(family, how):
    model, batches = backbone(family), rows(LENGTHS)
    chosen = select(model, batches, Graft(select=how, experts=2), seed=0)
    for block in model.blocks:
        use = [0.0] * block.n_experts
        for _, _, (_, weights, indices) in seen(model, batches)[block.name]:
            for w, i in zip(weights.flatten().tolist(), indices.flatten().tolist(), strict=True):
                use[i] += w if how == "usage_probability" else 1.0
        assert chosen[block.name] == sorted(range(len(use)), key=lambda i: (-use[i], i))[:2]


def test_ties_go_to_the_lowest_number():
    model = backbone("mixtral")
    for block in model.blocks:  # all experts alike
        for p in block.experts.parameters():
            p.data[:] = p.data[:1].clone()
    assert set(map(tuple, select(model, rows(LENGTHS), Graft(experts=2), 0).values())) == {(0, 1)}
    assert lowest([2.0, 1.0, 3.0, 1.0, 1.0], 2) == [1, 3]


def test_selection_leaves_the_model_as_it_was():
    model = backbone("qwen2_moe")
    select(model, rows(LENGTHS), Graft(), 0)
    assert not any(m._forward_hooks for m in model.model.modules())


def test_random_is_seeded_and_differs_between_blocks_and_seeds():
    model = backbone("qwen2_moe")
    draws = [tuple(map(tuple, select(model, [], Graft(select="random", experts=2), s).values())) for s in range(30)]
    assert draws == [tuple(map(tuple, select(model, [], Graft(select="random", experts=2), s).values())) for s in range(30)]
    assert len(set(draws)) > 10 and any(a != b for a, b in draws)
    assert all(len(set(pair)) == 2 and max(pair) < 6 for draw in draws for pair in draw)


def test_an_index_is_taken_in_every_block():
    model = backbone("qwen2_moe")
    assert set(map(tuple, select(model, [], Graft(select="index", index=5), 0).values())) == {(5,)}


@pytest.mark.parametrize(
    ("family", "graft", "gate", "message"),
    [
        (
            "qwen2_moe",
            Graft(select="index", index=6),
            Gate(),
            r"algorithm\.graft\.index: expected .* from 0 to 5, got 6; choose",
        ),
        ("qwen2_moe", Graft(experts=7), Gate(), r"algorithm\.graft\.experts: expected at most 6, .* got 7; lower"),
        ("qwen2_moe", Graft(train="lora", rank=0), Gate(), r"algorithm\.graft\.rank: expected at least 1, got 0; raise"),
        ("deepseek_v3", Graft(), Gate(mode="route"), r"algorithm\.gate\.mode: expected add, mix.*got 'route'; set"),
    ],
)
def test_what_the_model_cannot_do_is_refused(family, graft, gate, message):
    with pytest.raises(ConfigError, match=message):
        shapes_of(backbone(family), flex_parts(graft, gate))


def test_unknown_scores_cannot_be_restricted():
    from dataclasses import replace

    model = backbone("qwen2_moe")
    odd = replace(model, blocks=tuple(replace(b, scores="other") for b in model.blocks))
    with pytest.raises(ConfigError, match=r"algorithm\.graft\.experts: expected 1 with a router whose scores .* got 2; set"):
        select(odd, rows(LENGTHS), Graft(experts=2), 0)
    assert select(odd, rows(LENGTHS), Graft(), 0) == select(model, rows(LENGTHS), Graft(), 0)
    assert select(odd, rows(LENGTHS), Graft(select="usage", experts=2), 0)


def test_no_rows_are_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.graft\.calibration_rows: expected at least 1 row"):
        select(backbone("qwen2_moe"), [], Graft(), 0)


# ---- what a client starts with ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("mode", ["add", "mix", "open", "off"])
def test_the_start_has_the_names_and_shapes_of_the_parts(family, train, mode):
    model = backbone(family, torch.bfloat16)
    expert, gate = Graft(experts=2, train=train, start="copy"), Gate(mode=mode)
    state = graft(model, {b.name: [3, 1] for b in model.blocks}, expert, gate, 0)
    assert {name: tuple(t.shape) for name, t in state.items()} == shapes_of(model, flex_parts(expert, gate))
    assert {t.dtype for t in state.values()} <= {torch.float32, torch.int64}
    assert any(n.startswith("gate/") for n in state) == (mode in ("add", "mix")) and bool(state) == (mode != "off")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_start_copies_the_experts_and_an_identity_start_zeroes_down(family):
    model = backbone(family, torch.float32)
    block = model.blocks[-1]
    prefix = f"expert/{block.name}"
    chosen = {b.name: [3, 1] for b in model.blocks}
    for start in ("copy", "identity"):
        state = graft(model, chosen, Graft(experts=2, start=start), Gate(), 0)
        assert state[f"{prefix}/index"].tolist() == [3, 1]
        assert torch.equal(state[f"{prefix}/gate_up"], block.experts.gate_up_proj[[3, 1]])
        down = {n: t for n, t in state.items() if n.startswith(f"{prefix}/down")}
        assert len(down) == (2 if family == "gpt_oss" else 1)
        for name, t in down.items():
            own = getattr(block.experts, name.rpartition("/")[2].replace("down", "down_proj"))[[3, 1]]
            assert torch.equal(t, own if start == "copy" else torch.zeros_like(own))
        state[f"{prefix}/gate_up"].zero_()  # a copy: the frozen one stays
        assert block.experts.gate_up_proj.any()


def test_an_adapter_start_is_seeded_and_zero_in_b():
    model = backbone("qwen2_moe", torch.float32)
    chosen, how = {b.name: [2] for b in model.blocks}, Graft(train="lora")
    one, again, other = (graft(model, chosen, how, Gate(), s) for s in (0, 0, 1))
    for name, t in one.items():
        assert torch.equal(t, again[name])
        if name.endswith("_b"):
            assert not t.any()
        if name.endswith("_a"):
            assert not torch.equal(t, other[name]) and t.abs().max() <= t.shape[-1] ** -0.5


@pytest.mark.parametrize(("init", "bias"), [("router_row", 0.0), ("closed", -4.0), ("half", 0.0)])
def test_gates_start_as_told(init, bias):
    model = backbone("gpt_oss", torch.float32)
    state = graft(model, {b.name: [2, 0] for b in model.blocks}, Graft(experts=2), Gate(init=init), 0, names=("e", "g"))
    for block in model.blocks:
        row = block.router.weight[[2, 0]] if init == "router_row" else torch.zeros(2, block.width)
        assert torch.equal(state[f"g/{block.name}/weight"], row)
        assert state[f"g/{block.name}/bias"].tolist() == [bias, bias]
