"""What happens inside the blocks: by hand, and against loops over single tokens."""

import math

import pytest
import torch
from torch.testing import assert_close

from flexray.models.inside import Inside, expert_shares, grafted_where, look, summarise
from flexray.models.seats import Seats
from flexray.parts import Anchors, Gate, Graft, Lora, Part, Routed
from flexray.state import add
from tests.models.small import (
    FAMILIES,
    SOFTMAX,
    backbone,
    flex_parts,
    frozen_weights,
    plain_expert,
    plain_grafted,
    random_state,
)
from tests.models.test_seats import batch, seated

LORA = Lora(rank=3, alpha=6.0, targets=("q", "v"))
MODES = ["add", "mix", "route", "in_place", "open"]


def seen(seats, parts, ids):
    """Per block: the experts' own input and output tokens, and what the router gave, with these parts in use."""
    model, found = seats.backbone, {}
    hooks = []
    for b in model.blocks:
        got = found[b.name] = {}
        hooks.append(b.router.register_forward_hook(lambda m, a, o, got=got: got.update(router=o)))
        hooks.append(b.experts.register_forward_hook(lambda m, a, o, got=got: got.update(x=a[0], y=o), prepend=True))
    with torch.no_grad(), seats.using(parts):
        model.model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def distribution(block, logits_E):
    values = [1 / (1 + math.exp(-z)) if block.scores == "sigmoid" else math.exp(z) for z in logits_E.tolist()]
    return [v / sum(values) for v in values]


def plain_private(block, own, gate, how, mode, token):
    """One token: (what the private experts add, what the routed ones keep adding, the gates)."""
    x_D, y_D, logits_E, weights, chosen = token
    experts = plain_grafted(block, own, how, x_D)
    if mode == "in_place":
        private, routed = torch.zeros_like(y_D), torch.zeros_like(y_D)
        instead = dict(zip(own["index"].tolist(), experts, strict=True))
        for i, w in zip(chosen.tolist(), weights, strict=True):
            if i in instead:
                private = private + w * instead[i]
            else:
                routed = routed + w * plain_expert(block.experts, frozen_weights(block.experts, i), x_D)
        return private, routed, []
    if mode == "open":
        return sum(experts), y_D, [1.0] * len(experts)
    scores = [float(gate["weight"][g] @ x_D + gate["bias"][g]) for g in range(how.experts)]
    if mode == "route":
        over = (logits_E if block.scores == "softmax_all" else logits_E[chosen]).exp().sum().item()
        total = over + sum(map(math.exp, scores))
        gates = [math.exp(s) / total for s in scores]
        return sum(block.scale * g * e for g, e in zip(gates, experts, strict=True)), over / total * y_D, gates
    gates = [1 / (1 + math.exp(-s)) for s in scores]
    private = sum(g * e for g, e in zip(gates, experts, strict=True))
    if mode == "add":
        return private, y_D, gates
    return private / len(gates), (1 - sum(gates) / len(gates)) * y_D, gates


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_numbers_equal_loops_over_tokens(family):
    model, widths = backbone(family), [5, 3]
    ids, mask = batch(2, 2, widths)
    for mode in MODES if family in SOFTMAX else ["add", "mix", "in_place", "open"]:
        how = Graft(train="full", start="copy", experts=2)
        seats = seated(model, (*flex_parts(how, Gate(mode=mode), LORA), Part("on", "routed", "shared", Routed(rank=2))), 2)
        state = seats.take()
        rows = summarise(model, look(seats, state, (ids, mask.sum(1))))
        before, now = seen(seats, (), ids), seen(seats, None, ids)
        for k, (block, place) in ((k, (b, i)) for k in range(2) for i, b in enumerate(model.blocks)):
            got, was, is_ = rows[k][place], before[block.name], now[block.name]
            own, gate = (
                {n.rpartition("/")[2]: t[k] for n, t in state.items() if n.startswith(f"{p}/{block.name}/")}
                for p in ("expert", "gate")
            )
            load, entropy, drift, gates, shares = [0.0] * block.n_experts, [], [], [], []
            for n in range(ids.numel()):
                row, column = divmod(n, ids.shape[1])
                if row // 2 != k or not mask[row, column]:
                    continue
                logits, weights, chosen = (t[n].double() if t.is_floating_point() else t[n] for t in is_["router"])
                p, q = distribution(block, was["router"][0][n]), distribution(block, logits)
                entropy.append(-sum(v * math.log(v) for v in q))
                drift.append(sum(v * math.log(v / w) for v, w in zip(p, q, strict=True)))
                for i in chosen.tolist():
                    load[i] += 1
                private, routed, g = plain_private(
                    block, own, gate, how, mode, (is_["x"][n], is_["y"][n], logits, weights, chosen)
                )
                if mode == "in_place":  # what the other experts give is as the model has it, with its adapters
                    routed = is_["y"][n] - sum(
                        w * plain_expert(block.experts, frozen_weights(block.experts, i), is_["x"][n])
                        for i, w in zip(chosen.tolist(), weights, strict=True)
                        if i in own["index"].tolist()
                    )
                shares.append(float(private.norm() / (private.norm() + routed.norm())))
                gates += g
            near = {"rtol": 1e-4, "atol": 1e-5}
            assert (got.block, got.layer) == (block.name, block.layer)
            mean = torch.tensor([*load, sum(entropy), sum(drift), sum(shares)]) / len(entropy)
            assert_close(torch.tensor([*got.load, got.entropy, got.drift, got.share["expert"]]), mean, **near)
            if mode == "in_place":
                assert got.gate == got.gate_sd == {}
            else:
                values = torch.tensor(gates)
                assert_close(got.gate["expert"], float(values.mean()), **near)
                assert_close(got.gate_sd["expert"], float(values.std(correction=0)), rtol=1e-3, atol=1e-4)
        seats.detach()


def test_batches_add_up_whatever_the_padding():
    model = backbone("qwen2_moe")
    seats = seated(model, flex_parts(Graft(), Gate(), LORA), 2)
    ids, mask = batch(2, 2, [7, 5])
    lengths = mask.sum(1)
    whole = look(seats, seats.take(), (ids, lengths))
    first, second = torch.tensor([0, 2]), torch.tensor([1, 3])
    parts = [look(seats, seats.take(), (ids[rows, : int(lengths[rows].max())], lengths[rows])) for rows in (first, second)]
    for name, t in add(*parts).items():
        assert_close(t, whole[name], rtol=1e-9, atol=1e-9)
    seats.detach()


def test_without_weights_nothing_has_moved_and_a_seat_without_tokens_has_no_numbers():
    model = backbone("mixtral")
    seats = Seats(model, flex_parts(Graft(), Gate(), LORA), 2)
    ids, _ = batch(2, 1, [4, 4])
    one, none = summarise(model, look(seats, {}, (ids, torch.tensor([4, 0]))))
    assert none == [] and [r.layer for r in one] == [0, 1]
    for row in one:
        assert row.drift == 0 and row.gate == row.share == {}
        assert_close(sum(row.load), 2.0)  # each token has two experts
        assert 0 < row.entropy < math.log(6)
    seats.detach()


def test_means_by_hand():
    model = backbone("mixtral")
    name = model.blocks[0].name
    # Two tokens whose gates are 0.2 and 0.6: mean 0.4, sd √((0.04 + 0.36)/2 − 0.16) = 0.2.
    sums = {"tokens": [2.0], "entropy": [1.0], "drift": [0.5], "gate/e": [0.8], "gate_square/e": [0.4], "share/e": [1.0]}
    state = {f"{b.name}/{what}": torch.tensor(v) for b in model.blocks for what, v in sums.items()}
    state |= {f"{b.name}/load": torch.tensor([[2.0, 1.0, 1.0, 0.0, 0.0, 0.0]]) for b in model.blocks}
    row = summarise(model, state)[0][0]
    assert_close(row.gate_sd["e"], 0.2)
    assert row == Inside(name, 0, [1.0, 0.5, 0.5, 0.0, 0.0, 0.0], 0.5, 0.25, row.gate, row.gate_sd, {"e": 0.5})
    assert_close(row.gate["e"], 0.4)


def test_a_forward_within_a_forward_is_not_looked_at():
    model = backbone("mixtral")
    pair = (Part("global", "lora", "shared", LORA), Part("local", "lora", "private", LORA))
    seats = seated(model, (*pair, Part("anchors", "anchors", "private", Anchors(("global", "local")))), 1)
    ids, _ = batch(1, 2, [5])
    sums = look(seats, seats.take(), (ids, torch.tensor([5, 4])), starts_N=torch.tensor([2, 2]))
    assert all(sums[f"{b.name}/tokens"].tolist() == [9] for b in model.blocks)
    seats.detach()


def test_expert_shares_are_the_load_of_the_frozen_model():
    model = backbone("olmoe")
    seats = Seats(model, (), 1)
    ids, mask = batch(1, 3, [6])
    rows = summarise(model, look(seats, {}, (ids, mask.sum(1))))[0]
    shares = expert_shares(model, [(ids[:1], mask[:1]), (ids[1:], mask[1:])])
    for row in rows:
        assert_close(shares[row.block], torch.tensor(row.load))


def test_which_expert_was_grafted_where():
    model = backbone("mixtral")
    state = random_state(Seats(model, flex_parts(Graft(experts=2), Gate()), 1).shapes, 1, 6)
    where = grafted_where({name: t[0] for name, t in state.items()})
    assert where == {b.name: state[f"expert/{b.name}/index"][0].tolist() for b in model.blocks}
