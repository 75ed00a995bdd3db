"""Seats: against slow plain references, K at once against one by one, and the laws of what is off, frozen and trained."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flexray.errors import ConfigError
from flexray.models.graft import graft
from flexray.models.seats import Seats, fresh_part, shapes_of
from flexray.parts import Anchors, Gate, Graft, Lora, Mixer, Part
from flexray.state import seat, widen
from tests.models.small import (
    FAMILIES,
    SOFTMAX,
    VOCABULARY,
    backbone,
    flex_parts,
    frozen_weights,
    plain_expert,
    plain_grafted,
    random_state,
)

LORA = Lora(rank=3, alpha=6.0, targets=("q", "k", "v", "o"))
PAIRS = [
    (Graft(experts=G, train=train, start=start, rank=2, alpha=3.0), Gate(mode=mode))
    for mode, G, train, start in product(["add", "open", "mix", "route"], [1, 2], ["full", "lora"], ["copy", "identity"])
    if start == "copy" or mode in ("add", "open")
]
# Every family takes a few of the pairs, so that together they cover them all.
CASES = [(family, *PAIRS[j]) for i, family in enumerate(FAMILIES) for j in range(i, len(PAIRS), 6)]
DROPPING = Lora(rank=3, alpha=6.0, dropout=0.3, targets=("q", "v"))
MANY = (
    Part("global", "lora", "shared", LORA),
    Part("local", "lora", "private", DROPPING),
    Part("a", "lora_a", "shared", LORA),
    Part("b", "lora_b", "private", LORA),
    Part("rest", "lora", "frozen", LORA),
    Part("folded", "delta", "frozen", LORA),
    Part("mix", "mixer", "private", Mixer(("a", "rest"))),
    Part("anchors", "anchors", "private", Anchors(("global", "local"), share="sigmoid")),
    *flex_parts(Graft(start="copy"), Gate()),
)
"""Adapters of every kind, and a graft."""
FLOAT32_ROUTERS = ("deepseek_v2", "deepseek_v3")  # they multiply in float32 whatever the model's dtype
CASES = [(f, e, g) for f, e, g in CASES if g.mode != "route" or f in SOFTMAX]


def seated(model, parts, K, seed=1) -> Seats:
    seats = Seats(model, parts, K)
    seats.put(random_state(seats.shapes, K, model.blocks[0].n_experts, seed))
    return seats


def batch(K: int, B: int, widths: list[int], seed: int = 2) -> tuple[Tensor, Tensor]:
    """Right-padded rows [K·B, T]: every seat has its own width, and its rows have other lengths again."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (K * B, max(widths)), generator=generator)
    lengths = torch.tensor([w - b % 2 for w in widths for b in range(B)])
    mask = (torch.arange(max(widths)) < lengths[:, None]).long()
    return ids * mask, mask


def logits(model, ids, mask) -> Tensor:
    return model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def train_step(seats: Seats, ids, mask, **options) -> Tensor:
    names = [p.name for p in seats.parts]
    with seats.using(names, train=names, **options):
        out = logits(seats.backbone, ids, mask)
        weights = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
        ((out @ weights / 8).tanh() * mask).sum().backward()
    return out.detach()


def grads(seats: Seats) -> dict[str, Tensor]:
    return {name: t.grad for name, t in seats.live().items() if t.grad is not None}


# ---- one block against a plain reference ----


def plain_block(block, out_D, x_D, own, gate, graft, mode):
    """One token of one client through a block whose frozen output is known."""
    privates = plain_grafted(block, own, graft, x_D)
    if mode == "open":
        return out_D + sum(privates)
    scores = [gate["weight"][g] @ x_D + gate["bias"][g] for g in range(graft.experts)]
    gates = [1 / (1 + torch.exp(-s)) for s in scores]
    if mode == "add":
        return out_D + sum(g * e for g, e in zip(gates, privates, strict=True))
    router_logits, weights, chosen = (t[0] for t in block.router(x_D[None]))
    routed = sum(
        w * plain_expert(block.experts, frozen_weights(block.experts, int(i)), x_D)
        for w, i in zip(weights, chosen, strict=True)
    )
    if mode == "mix":
        mean = sum(gates) / graft.experts
        return out_D - mean * routed + sum(g * e for g, e in zip(gates, privates, strict=True)) / graft.experts
    over = router_logits if block.scores == "softmax_all" else router_logits[chosen]
    total = sum(torch.exp(z) for z in (*over, *scores))
    kept = sum(torch.exp(z) for z in over) / total
    return out_D - (1 - kept) * routed + block.scale * sum(
        torch.exp(s) / total * e for s, e in zip(scores, privates, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_equals_its_plain_reference_values_and_gradients(family):
    model = backbone(family)
    block = model.blocks[-1]
    x = torch.randn(4, 2, block.width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for expert, gate in PAIRS:
        if gate.mode == "route" and family not in SOFTMAX:
            continue
        seats = seated(model, flex_parts(expert, gate), 2)
        frozen = first(block.module(x)).reshape(2, 4, -1)
        with seats.using(train=["expert", "gate"]):
            fast = first(block.module(x)).reshape(2, 4, -1)
            (fast * x.reshape(2, 4, -1)).sum().backward()
        mine = {n.rpartition("/"): t.requires_grad_(n in seats.live()) for n, t in seats.take().items()}
        for k, n in product(range(2), range(4)):
            own = {name: t[k] for (path, _, name), t in mine.items() if path == f"expert/{block.name}"}
            own_gate = {name: t[k] for (path, _, name), t in mine.items() if path == f"gate/{block.name}"}
            x_D = x.reshape(2, 4, -1)[k, n]
            slow = plain_block(block, frozen[k, n], x_D, own, own_gate, expert, gate.mode)
            assert_close(fast[k, n].detach(), slow.detach(), rtol=1e-6, atol=1e-6)  # routers compute in float32
            (slow * x_D).sum().backward()
        for (path, _, name), t in mine.items():
            if path.endswith(block.name) and t.requires_grad:
                assert_close(grads(seats)[f"{path}/{name}"], t.grad, rtol=1e-6, atol=1e-6, msg=f"{path}/{name}")
        seats.detach()


def first(out):
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_equal_merged_weights(family):
    model = backbone(family)
    parts = (Part("lora", "lora", "shared", LORA),)
    seats = seated(model, parts, 1)
    ids, mask = batch(1, 2, [5])
    with seats.using():
        adapted = logits(model, ids, mask)
    one = seat(seats.take(), 0)
    for path, linear in model.family.adapter_sites(model.model, LORA.targets).items():
        linear.weight.data += LORA.alpha / LORA.rank * one[f"lora/{path}/b"] @ one[f"lora/{path}/a"]
    assert_close(logits(model, ids, mask)[mask.bool()], adapted[mask.bool()], rtol=1e-5, atol=1e-5)


# ---- K seats = one by one ----


@pytest.mark.parametrize(("family", "expert", "gate"), CASES, ids=lambda v: getattr(v, "mode", None) or str(v)[:12])
def test_seats_in_one_forward_equal_one_by_one(family, expert, gate):
    model, widths = backbone(family), [5, 7, 3]
    packed = seated(model, flex_parts(expert, gate, LORA), 3)
    ids, mask = batch(3, 2, widths)
    out = train_step(packed, ids, mask, widths=widths)
    state, got = packed.take(), grads(packed)
    packed.detach()
    single = Seats(model, packed.parts, 1)
    for k, width in enumerate(widths):
        rows = slice(2 * k, 2 * k + 2)
        single.put({name: t[None] for name, t in seat(state, k).items()})
        single.zero_grad()
        alone = train_step(single, ids[rows, :width], mask[rows, :width])
        real = mask[rows, :width].bool()
        near = 1e-5 if family in FLOAT32_ROUTERS else 1e-11
        assert_close(out[rows, :width][real], alone[real], rtol=near, atol=near)
        for name, t in grads(single).items():
            assert_close(got[name][k], t[0], rtol=10 * near, atol=near, msg=name)
    single.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_many_parts_in_one_forward_equal_one_by_one(family):
    model, widths = backbone(family), [5, 7, 3]
    packed = seated(model, MANY, 3)
    ids, mask = batch(3, 2, widths)
    starts = torch.tensor([2, 4, 1, 3, 2, 1])
    out = train_step(packed, ids, mask, widths=widths, starts=starts, dropout=generators(0, 1, 2))
    state, got = packed.take(), grads(packed)
    packed.detach()
    assert all(bool(t.flatten(1).any(1).all()) for t in got.values())
    single = Seats(model, MANY, 1)
    for k, width in enumerate(widths):
        rows = slice(2 * k, 2 * k + 2)
        single.put({name: t[None] for name, t in seat(state, k).items()})
        single.zero_grad()
        alone = train_step(single, ids[rows, :width], mask[rows, :width], starts=starts[rows], dropout=generators(k))
        real = mask[rows, :width].bool()
        near = 1e-5 if family in FLOAT32_ROUTERS else 1e-11
        assert_close(out[rows, :width][real], alone[real], rtol=near, atol=near)
        for name, t in grads(single).items():
            assert_close(got[name][k], t[0], rtol=10 * near, atol=near, msg=name)
    single.detach()


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_token_by_token_with_a_cache_equals_all_at_once(family, side):
    """Prompts of other lengths, padded on either side, then two tokens each: against every row whole and alone."""
    model = backbone(family)
    seats = seated(model, MANY, 2)
    lengths, T = torch.tensor([4, 2, 3, 5]), 5
    rows = torch.randint(1, VOCABULARY, (4, T + 2), generator=torch.Generator().manual_seed(6))
    lead = T - lengths if side == "left" else torch.zeros_like(lengths)
    column = torch.arange(T)
    mask = ((column >= lead[:, None]) & (column < (lead + lengths)[:, None])).long()
    prompts = rows[:, :T].gather(1, (column - lead[:, None]).clamp(0)) * mask
    said = rows.gather(1, lengths[:, None] + torch.arange(2))
    with torch.no_grad(), seats.using(starts=lead + lengths):
        places = (mask.cumsum(1) - 1).clamp(0)
        step = model.model(input_ids=prompts, attention_mask=mask, position_ids=places, use_cache=True)
        outs = [step.logits[torch.arange(4), lead + lengths - 1]]
        for t in range(2):
            mask = torch.cat([mask, torch.ones(4, 1, dtype=mask.dtype)], 1)
            step = model.model(
                input_ids=said[:, t : t + 1], attention_mask=mask, position_ids=lengths[:, None] + t,
                past_key_values=step.past_key_values, use_cache=True,
            )  # fmt: skip
            outs.append(step.logits[:, -1])
    state = seats.take()
    seats.detach()
    single = Seats(model, MANY, 1)
    for i, length in enumerate(lengths.tolist()):
        single.put({name: t[None] for name, t in seat(state, i // 2).items()})
        with torch.no_grad(), single.using(starts=lengths[i : i + 1]):
            alone = logits(model, rows[i : i + 1, : length + 2], torch.ones(1, length + 2).long())[0]
        assert_close(torch.stack([out[i] for out in outs]), alone[length - 1 :], rtol=1e-5, atol=1e-5)
    single.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_seats_in_one_forward_equal_one_by_one_in_float32(family):
    model = backbone(family, torch.float32)
    packed = seated(model, flex_parts(Graft(), Gate(), LORA), 2)
    ids, mask = batch(2, 2, [6, 4])
    train_step(packed, ids, mask)
    single = Seats(model, packed.parts, 1)
    packed.detach()
    for k, width in enumerate([6, 4]):
        rows = slice(2 * k, 2 * k + 2)
        single.put({name: t[None] for name, t in seat(packed.take(), k).items()})
        single.zero_grad()
        train_step(single, ids[rows, :width], mask[rows, :width])
        largest = max(float(t.abs().max()) for t in grads(single).values())
        for name, t in grads(single).items():
            assert_close(grads(packed)[name][k], t[0], rtol=1e-3, atol=1e-4 * largest, msg=name)


def test_dropout_masks_do_not_depend_on_who_shares_the_forward():
    model, widths = backbone("qwen2_moe"), [5, 7]
    lora = (Part("lora", "lora", "shared", Lora(rank=3, dropout=0.3)),)
    packed = seated(model, lora, 2)
    ids, mask = batch(2, 2, widths)
    out = train_step(packed, ids, mask, dropout=[torch.Generator().manual_seed(s) for s in (7, 8)], widths=widths)
    with packed.using():
        assert not torch.allclose(out, logits(model, ids, mask))
    packed.detach()
    single = Seats(model, lora, 1)
    for k, width in enumerate(widths):
        rows = slice(2 * k, 2 * k + 2)
        single.put({name: t[None] for name, t in seat(packed.take(), k).items()})
        single.zero_grad()
        alone = train_step(single, ids[rows, :width], mask[rows, :width], dropout=[torch.Generator().manual_seed(7 + k)])
        real = mask[rows, :width].bool()
        assert_close(out[rows, :width][real], alone[real], rtol=1e-11, atol=1e-11)
        for name, t in grads(single).items():
            assert_close(grads(packed)[name][k], t[0], rtol=1e-10, atol=1e-11)


def test_nothing_is_dropped_from_adapters_that_are_not_trained():
    model = backbone("qwen2_moe")
    seats = seated(model, (Part("lora", "lora", "shared", Lora(dropout=0.5)),), 1)
    ids, mask = batch(1, 2, [5])
    with seats.using():
        plain = logits(model, ids, mask)
    with seats.using(dropout=[torch.Generator().manual_seed(0)]):
        assert torch.equal(logits(model, ids, mask), plain)


# ---- what is off, what starts at nothing, what is frozen ----


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_that_are_off_leave_the_frozen_model_bit_for_bit(family):
    model = backbone(family, torch.float32)
    ids, mask = batch(2, 2, [6, 4])
    frozen = logits(model, ids, mask)
    mode = "route" if family in SOFTMAX else "mix"
    seats = seated(model, flex_parts(Graft(start="copy"), Gate(mode=mode), LORA), 2)
    assert torch.equal(logits(model, ids, mask), frozen)
    for some in ((), ("expert",), ("gate",)):  # a graft takes both
        with seats.using(some):
            assert torch.equal(logits(model, ids, mask), frozen)
    with seats.using():
        assert not torch.allclose(logits(model, ids, mask), frozen)
    seats.detach()
    with seats.using():
        assert torch.equal(logits(model, ids, mask), frozen)
    seats = seated(model, MANY, 2)
    for some in ((), ("a",), ("b",), ("mix", "anchors", "expert")):  # halves, and weighers of nothing
        with seats.using(some):
            assert torch.equal(logits(model, ids, mask), frozen)
    seats.detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("mode", ["add", "open", "off"])
def test_the_identity_start_is_the_frozen_model_bit_for_bit(family, train, mode):
    model = backbone(family, torch.float32)
    expert, gate = Graft(train=train, start="identity"), Gate(mode=mode, init="router_row")
    parts = flex_parts(expert, gate, LORA)
    seats = Seats(model, parts, 2)
    chosen = {b.name: [1] for b in model.blocks}
    start = graft(model, chosen, expert, gate, seed=0) | fresh_part(parts[0], parts, model, seed=0)
    assert {name: tuple(t.shape) for name, t in start.items()} == seats.shapes
    seats.put(widen(start, 2))
    ids, mask = batch(2, 2, [6, 4])
    frozen = logits(model, ids, mask)
    with seats.using():
        assert torch.equal(logits(model, ids, mask), frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_tensor_has_a_gradient_and_the_frozen_ones_do_not_move(family):
    model = backbone(family, torch.float32)
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    modes = ["add", "mix", "open", *(["route"] if family in SOFTMAX else [])]
    for mode, train in product(modes, ["full", "lora"]):
        seats = seated(model, flex_parts(Graft(train=train, start="copy", experts=2), Gate(mode=mode), LORA), 2)
        ids, mask = batch(2, 2, [6, 4])
        train_step(seats, ids, mask)
        for name, t in seats.live().items():
            assert t.grad is not None and bool((t.grad.flatten(1) != 0).any(1).all()), (mode, train, name)
        for part in ("lora", "expert", "gate"):
            weights, gradients = seats.flat(part)
            weights.sub_(gradients, alpha=0.1)
        seats.detach()
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.model.state_dict().items())
    assert not any(m.training for m in model.model.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_gradient_lives_at_the_identity_start(family, train):
    """At zero output only what makes it non-zero has a gradient: the down projection, every B; never none."""
    model = backbone(family, torch.float32)
    expert, gate = Graft(train=train, start="identity"), Gate()
    seats = Seats(model, flex_parts(expert, gate, LORA), 1)
    start = graft(model, {b.name: [0] for b in model.blocks}, expert, gate, 0) | fresh_part(
        seats.parts[0], seats.parts, model, 0
    )
    seats.put(widen(start, 1))
    train_step(seats, *batch(1, 2, [6]))
    wanted = {n for n in seats.live() if n.endswith(("/down", "/down_bias", "_b", "/b"))}
    have = {n for n, g in grads(seats).items() if bool((g != 0).any())}
    assert have == wanted


# ---- the surface ----


def test_trained_tensors_are_views_of_one_buffer_and_gradients_add_up_in_another():
    model = backbone("mixtral", torch.float32)
    seats = seated(model, flex_parts(Graft(), Gate(), LORA), 2)
    ids, mask = batch(2, 1, [4, 4])
    train_step(seats, ids, mask)
    weights, gradients = seats.flat("lora")
    once = gradients.clone()
    assert once.abs().sum() > 0 and weights.shape == once.shape == (2, sum_sizes(seats, "lora"))
    train_step(seats, ids, mask)
    assert_close(gradients, 2 * once, rtol=1e-4, atol=1e-5)
    seats.zero_grad()
    assert all(not g.any() for g in grads(seats).values())
    weights.zero_()
    assert all(not t.any() for name, t in seats.take(["lora"]).items())


def sum_sizes(seats, part):
    return sum(torch.Size(s).numel() for n, s in seats.shapes.items() if n.startswith(f"{part}/"))


def test_only_what_is_named_is_trained():
    model = backbone("mixtral", torch.float32)
    seats = seated(model, flex_parts(Graft(), Gate(), LORA), 1)
    ids, mask = batch(1, 1, [4])
    with seats.using(train=["gate"]):
        logits(model, ids, mask).sum().backward()
    assert seats.flat("gate")[1].any() and not seats.flat("lora")[1].any() and not seats.flat("expert")[1].any()


def test_an_open_gate_has_no_tensors_and_need_not_be_named():
    model = backbone("mixtral", torch.float32)
    seats = seated(model, flex_parts(Graft(start="copy"), Gate(mode="open")), 1)
    ids, mask = batch(1, 1, [4])
    frozen = logits(model, ids, mask)
    assert not any(name.startswith("gate/") for name in seats.shapes)
    with seats.using(["expert"], train=["expert", "gate"]):
        served = logits(model, ids, mask)
    with seats.using():
        assert torch.equal(logits(model, ids, mask), served) and not torch.equal(served, frozen)


def test_take_gives_copies_of_what_was_put():
    model = backbone("mixtral", torch.float32)
    seats = seated(model, flex_parts(Graft(), Gate()), 2)
    state = random_state(seats.shapes, 2, 6, seed=9)
    seats.put(state)
    taken = seats.take(["expert"])
    assert taken.keys() == {n for n in state if n.startswith("expert/")}
    assert all(torch.equal(t, state[name]) for name, t in taken.items())
    seats.flat("expert")[0].zero_()
    assert all(torch.equal(t, state[name]) for name, t in taken.items())


def test_two_adapters_on_one_site_add_up():
    model = backbone("qwen2_moe")
    one, two = (Part(name, "lora", "shared", LORA) for name in ("one", "two"))
    seats = seated(model, (one, two), 1)
    ids, mask = batch(1, 2, [5])
    with seats.using():
        both = logits(model, ids, mask)
    state = seats.take()
    seats.detach()
    joined = Seats(model, (Part("one", "lora", "shared", Lora(rank=6, alpha=12.0, targets=LORA.targets)),), 1)
    for name in joined.shapes:
        pair = [state[name], state["two" + name.removeprefix("one")]]
        joined.put({name: torch.cat(pair, 1 if name.endswith("/a") else 2)})
    with joined.using():
        assert_close(logits(model, ids, mask), both, rtol=1e-5, atol=1e-5)


def test_wrong_names_and_shapes_are_refused():
    model = backbone("mixtral", torch.float32)
    seats = Seats(model, (Part("lora", "lora", "shared", LORA),), 2)
    with pytest.raises(KeyError, match="no such tensor"):
        seats.put({"lora/nowhere/a": torch.zeros(2)})
    name, shape = next(iter(seats.shapes.items()))
    with pytest.raises(ValueError, match="expected shape"):
        seats.put({name: torch.zeros(shape)})
    for parts, train in ((["lora"], ["expert"]), (["expert"], []), ([], ["lora"])):  # unknown, unknown, without effect
        with pytest.raises(AssertionError), seats.using(parts, train=train):
            pass


def test_route_is_refused_where_weights_are_no_softmax():
    with pytest.raises(ConfigError, match=r"algorithm\.gate\.mode: expected add, mix, open or off .* got 'route'; set"):
        shapes_of(backbone("deepseek_v3"), flex_parts(Graft(start="copy"), Gate(mode="route")))


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_float32(family):
    outs = []
    for dtype in (torch.float32, torch.bfloat16):
        model = backbone(family, dtype)
        seats = seated(model, flex_parts(Graft(train="lora"), Gate(), LORA), 2)
        assert seats.flat("lora")[0].dtype == torch.float32
        block = model.blocks[0]
        x = torch.randn(2, 3, block.width, generator=torch.Generator().manual_seed(5))
        with seats.using():
            outs.append(first(block.module(x.to(dtype))).float())
    assert_close(outs[1], outs[0], rtol=0.1, atol=0.1 * float(outs[0].abs().max()))


def test_fresh_adapters_are_the_same_for_everybody_and_differ_by_seed_and_site():
    model = backbone("qwen2_moe", torch.float32)
    part = Part("lora", "lora", "shared", LORA)
    one, again, other = (fresh_part(part, (part,), model, seed) for seed in (0, 0, 1))
    assert one.keys() == shapes_of(model, (part,)).keys()
    firsts = [t for name, t in one.items() if name.endswith("/a")]
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert all(not torch.equal(one[n], other[n]) for n in one if n.endswith("/a"))
    assert not torch.equal(firsts[0], firsts[1]) and all(not t.any() for n, t in one.items() if n.endswith("/b"))
    assert 0.9 / 32**0.5 < max(float(t.abs().max()) for t in firsts) <= 1 / 32**0.5  # width 32
