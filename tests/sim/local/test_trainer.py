"""Local training against plain PyTorch, and the contract's small print."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.models import backbone as backbones
from flexray.models.seats import Seats
from flexray.sim.local.lm import collate
from flexray.sim.local.newcomers import start_of
from flexray.sim.local.trainer import SeatTrainer, rate
from flexray.sim.planning.plan import prepare
from flexray.state import sqdist, widen

CPU4 = {"CPU": 4.0}


class PlainLora(nn.Module):
    """LoRA as everybody writes it."""

    def __init__(self, linear: nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: float):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.a.T @ self.b.T)


def world(x, tmp_path, group=(0,), round=0):
    job, _ = prepare(x, CPU4, tmp_path / "private")
    backbone, corpus = backbones.load(job.backbone), Corpus(job.corpus)
    seats = Seats(backbone, x.algorithm.parts, len(group))
    clients = [job.trainees[number] for number in group]
    return backbone, corpus, clients, SeatTrainer(job, backbone, seats, corpus, group, round)


def plain_training(x, backbone, corpus, client, start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One client's local steps with nn.Module, cross entropy and torch's own AdamW."""
    lora, train, adapters = x.algorithm.lora, x.train, {}
    for site in {name.split("/")[1] for name in start}:
        parent, _, last = site.rpartition(".")
        holder = backbone.model.get_submodule(parent)
        a, b = start[f"lora/{site}/a"], start[f"lora/{site}/b"]
        adapters[site] = PlainLora(getattr(holder, last), a, b, lora.alpha / lora.rank)
        setattr(holder, last, adapters[site])
    parameters = [p for m in adapters.values() for p in (m.a, m.b)]
    optimizer = torch.optim.AdamW(parameters, lr=rate(train, train.lr, 0, x.rounds), weight_decay=train.weight_decay)
    rows = order(client.train, x.seed, 0, 0, train.steps * train.batch)
    for i in range(0, len(rows), train.batch):
        batch = collate([corpus.rows(rows[i : i + train.batch])])
        logits = backbone.model(input_ids=batch.ids).logits
        losses = [
            nn.functional.cross_entropy(logits[n, s - 1 : t - 1], batch.ids[n, s:t], reduction="none")
            for n, (s, t) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True))
        ]
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        nn.utils.clip_grad_norm_(parameters, train.clip)
        optimizer.step()
    return {f"lora/{site}/{n}": getattr(m, n).detach() for site, m in adapters.items() for n in ("a", "b")}


def test_one_clients_fedavg_is_plain_training(small, tmp_path):
    x = small(
        algorithm={"name": "fedavg"},
        train={"steps": 4, "batch": 3, "lr": 1e-3, "final_lr": 1e-3, "weight_decay": 0.1},
        rounds=1,
    )
    backbone, corpus, clients, trainer = world(x, tmp_path)
    start = start_of(x.algorithm, backbone, x.seed)
    ours = trainer.fit(widen(start, 1))
    trainer.seats.detach()
    plain = plain_training(x, backbone, corpus, clients[0], start)
    assert ours.keys() == plain.keys()
    for name, t in plain.items():
        assert not torch.equal(t, start[name])
        torch.testing.assert_close(ours[name][0], t, rtol=1e-4, atol=2e-5, msg=name)


def test_only_the_named_parts_are_trained(small, tmp_path):
    x = small(train={"steps": 1, "batch": 2})
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1) | trainer.fresh(x.algorithm.private)
    after = trainer.fit(start, train=frozenset({"expert"}))
    changed = {name.split("/")[0] for name in start if not torch.equal(start[name], after[name])}
    assert changed == {"expert"}


def test_streams_and_splits_are_other_batches(small, tmp_path):
    x = small(train={"steps": 2, "batch": 2, "optimizer": "sgd"})
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    results = [trainer.fit(start), trainer.fit(start, stream=1), trainer.fit(start, split="valid"), trainer.fit(start)]
    sums = [sum(t.double().abs().sum().item() for t in r.values()) for r in results]
    assert sums[0] == sums[3]
    assert len(set(sums)) == 3


def test_a_penalty_pulls_back_and_steps_may_be_none(small, tmp_path):
    x = small(train={"steps": 3, "batch": 2})
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    free, held = trainer.fit(start), trainer.fit(start, penalty=lambda w: 1e4 * sqdist(w, start))
    assert sqdist(held, start).item() < sqdist(free, start).item()
    still = trainer.fit(start, steps=0)
    assert all(torch.equal(still[name], start[name]) for name in start)


def test_private_parts_follow_their_own_rate(small, tmp_path):
    """With SGD one step moves by rate times gradient: ten times the rate, ten times as far."""
    moved = {}
    for private_lr in (0.01, 0.1):
        train = {
            "steps": 1,
            "batch": 2,
            "optimizer": "sgd",
            "lr": 0.01,
            "final_lr": 0.01,
            "private_lr": private_lr,
            "clip": None,
        }
        x = small(train=train)
        backbone, _, _, trainer = world(x, tmp_path)
        start = widen(start_of(x.algorithm, backbone, x.seed), 1) | trainer.fresh(x.algorithm.private)
        after = trainer.fit(start)
        moved[private_lr] = {
            p: sqdist(after, {n: t for n, t in start.items() if n.startswith(p)}).item() for p in ("lora", "expert")
        }
    assert moved[0.1]["lora"] == moved[0.01]["lora"] > 0
    np.testing.assert_allclose(moved[0.1]["expert"], 100 * moved[0.01]["expert"], rtol=1e-3)


def test_the_rate_of_private_parts_falls_in_proportion(small):
    train = small(rounds=3, train={"lr": 1.0, "final_lr": 0.2}).train
    assert [rate(train, 2.0, r, 3) for r in range(3)] == pytest.approx([2.0, 1.2, 0.4])
    constant = small(train={"lr": 1.0, "schedule": "constant"}).train
    assert rate(constant, 1.0, 2, 3) == 1.0


@pytest.mark.parametrize("mode", ["off", "open", "mix", "route"])
def test_every_gate_mode_trains_what_it_has(small, tmp_path, mode):
    x = small(algorithm={"name": "flex", "gate": {"mode": mode}, "graft": {"start": "copy", "calibration_rows": 2}})
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1) | trainer.fresh(x.algorithm.private)
    after = trainer.fit(start)
    changed = {name.split("/")[0] for name in start if not torch.equal(start[name], after[name])}
    assert changed == {"off": {"lora"}, "open": {"lora", "expert"}}.get(mode, {"lora", "expert", "gate"})


def sgd(**more) -> dict:
    return {"optimizer": "sgd", "lr": 0.1, "final_lr": 0.1, "clip": None, **more}


def far(x: dict, y: dict) -> float:
    return sqdist(x, y).sum().sqrt().item()


def test_accumulated_batches_are_one_large_batch(small, tmp_path):
    """Two batches of 3 rows, accumulated, against one of 6: the same rows, one mean over all their response tokens."""
    results = []
    for batch, accumulate in ((3, 2), (6, 1)):
        x = small(algorithm={"name": "fedavg"}, train=sgd(steps=2, batch=batch, accumulate=accumulate))
        backbone, _, _, trainer = world(x, tmp_path)
        results.append(trainer.fit(widen(start_of(x.algorithm, backbone, x.seed), 1)))
        trainer.seats.detach()
    for name, t in results[0].items():
        torch.testing.assert_close(t, results[1][name], rtol=1e-4, atol=1e-7, msg=name)


def test_warm_up_takes_part_of_the_rate(small, tmp_path):
    """One SGD step with warmup_steps 3 is a quarter of one without: (0 + 1)/(3 + 1)."""
    moved = []
    for warmup in (0, 3):
        x = small(algorithm={"name": "fedavg"}, train=sgd(steps=1, batch=2, warmup_steps=warmup))
        backbone, _, _, trainer = world(x, tmp_path)
        start = widen(start_of(x.algorithm, backbone, x.seed), 1)
        moved.append(far(trainer.fit(start), start))
        trainer.seats.detach()
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-4)


def test_warm_up_over_rounds(small):
    """warmup_rounds 3 with a constant rate: 1/4, 2/4, 3/4, then all of it."""
    train = small(train={"lr": 1.0, "schedule": "constant", "warmup_rounds": 3}).train
    assert [rate(train, 1.0, r, 6) for r in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_gradient_is_what_a_step_of_sgd_takes(small, tmp_path):
    """θ − lr·gradient(θ) is one SGD step on the same batch."""
    x = small(algorithm={"name": "fedavg"}, train=sgd(steps=1, batch=2))
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    after, gradient = trainer.fit(start), trainer.gradient(start)
    for name, t in start.items():
        torch.testing.assert_close(after[name], t - 0.1 * gradient[name], rtol=1e-5, atol=1e-8, msg=name)


def test_the_loss_of_a_split_is_that_of_all_its_rows(small, tmp_path):
    """Against one row at a time: Σ −log p over Σ response tokens."""
    x = small(algorithm={"name": "fedavg"}, evaluation={"batch": 3})
    backbone, corpus, clients, trainer = world(x, tmp_path)
    found = trainer.loss(widen(start_of(x.algorithm, backbone, x.seed), 1)).item()
    trainer.seats.detach()
    nll, tokens = 0.0, 0
    for ids, start in corpus.rows(clients[0].valid):
        row = torch.tensor(ids.astype(np.int64))[None]
        logits = backbone.model(input_ids=row).logits[0, start - 1 : -1]
        nll += nn.functional.cross_entropy(logits, row[0, start:], reduction="sum").item()
        tokens += len(ids) - start
    assert found == pytest.approx(nll / tokens, rel=1e-5)


def test_steps_on_the_same_batch(small, tmp_path):
    """Two steps on the first batch are one step, and one more from where it led to, with batches of one step."""
    x = small(algorithm={"name": "fedavg"}, train=sgd(steps=2, batch=2))
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    twice = trainer.fit(trainer.fit(start, steps=1), steps=1)
    same = trainer.fit(start, same_batch=True)
    assert all(torch.equal(same[name], t) for name, t in twice.items())
    assert far(trainer.fit(start), same) > 0


def test_a_mask_holds_numbers_in_spite_of_weight_decay(small, tmp_path):
    x = small(algorithm={"name": "fedavg"}, train={"steps": 2, "batch": 2, "weight_decay": 0.1})
    backbone, _, _, trainer = world(x, tmp_path)
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    mask = {name: torch.ones_like(t) for name, t in start.items()}
    held = next(name for name in start if name.endswith("/a"))
    mask[held][:, :3] = 0
    after = trainer.fit(start, mask=mask)
    assert torch.equal(after[held][:, :3], start[held][:, :3])
    assert not torch.equal(after[held][:, 3:], start[held][:, 3:])


def test_in_bfloat16_masters_are_float32_and_move_by_less_than_bfloat16_can_tell(small, tmp_path):
    """A step of 1e-6 on numbers of size 0.1, whose neighbours in bfloat16 are 5e-4 away, is not lost."""
    x = small(
        model={"dtype": "bfloat16"}, algorithm={"name": "fedavg"}, train={"steps": 1, "batch": 2, "lr": 1e-6, "final_lr": 1e-6}
    )
    backbone, _, _, trainer = world(x, tmp_path)
    assert backbone.dtype == torch.bfloat16
    start = widen(start_of(x.algorithm, backbone, x.seed), 1)
    after = trainer.fit(start)
    b = next(name for name in start if name.endswith("/b"))
    assert after[b].dtype == torch.float32 and 0 < after[b].abs().max() <= 1.01e-6


def test_dropout_is_each_clients_own(small, tmp_path):
    """Client 1's masks are the same in a seat of its own and beside client 0."""
    x = small(algorithm={"name": "fedavg", "lora": {"dropout": 0.5}}, train=sgd(steps=2, batch=2))
    both, alone = [], []
    for group, kept in (((0, 1), both), ((1,), alone)):
        backbone, _, _, trainer = world(x, tmp_path, group)
        kept.append(trainer.fit(widen(start_of(x.algorithm, backbone, x.seed), len(group))))
        trainer.seats.detach()
    for name, t in alone[0].items():
        torch.testing.assert_close(both[0][name][1], t[0], rtol=1e-4, atol=1e-7, msg=name)


def test_pooled_rows_are_everybodys_and_a_step_sees_a_batch_for_each(small, tmp_path):
    x = small(algorithm={"name": "central"}, train={"steps": 2, "batch": 2})
    job, _ = prepare(x, CPU4, tmp_path / "private")
    assert job.taking_part(0) == (3,) and len(job.trainees[3].train) == sum(len(c.train) for c in job.clients)
    backbone, _, _, trainer = world(x, tmp_path, group=(3,))
    trainer.fit(widen(start_of(x.algorithm, backbone, x.seed), 1))
    rows = order(job.trainees[3].train, x.seed, 3, 0, 2 * 3 * 2)  # steps · clients · batch
    assert trainer.effort.tokens[0] == sum(len(ids) for ids, _ in trainer.corpus.rows(rows))


def test_a_shared_expert_starts_as_the_same_one_at_the_server_and_at_every_client(small, tmp_path):
    graft = {"select": "random", "start": "copy"}
    x = small(algorithm={"name": "flex", "expert": "shared", "graft": graft})
    backbone, _, _, trainer = world(x, tmp_path, group=(0, 1))
    start, own = start_of(x.algorithm, backbone, x.seed), trainer.fresh(x.algorithm.private)
    assert {name.split("/")[0] for name in start} == {"lora", "expert"} and {name.split("/")[0] for name in own} == {"gate"}
    again = trainer.fresh(tuple(p for p in x.algorithm.parts if p.name == "expert"))
    for name, t in again.items():
        assert torch.equal(t[0], start[name]) and torch.equal(t[1], start[name])


def test_epochs_are_passes_over_each_clients_own_rows(small, tmp_path):
    x = small(algorithm={"name": "fedavg"}, train={"steps": None, "epochs": 1.5, "batch": 4}, data={"max_train_rows": 12})
    assert x.train.steps is None
    _, _, clients, trainer = world(x, tmp_path, (0, 1))
    # ceil(1.5 · rows / 4): 12 rows make 18 and so 5 steps
    assert trainer.steps.tolist() == [-(-3 * len(c.train) // 8) for c in clients]
    assert x.train.local_steps(12, 4) == 5 and x.train.local_steps(1, 4) == 1


def test_seats_with_unequal_steps_train_as_one_by_one(small, tmp_path):
    # accumulated batches, a penalty and weight decay beside them, and neighbours that go on when a seat is done
    train = {"batch": 2, "accumulate": 2, "weight_decay": 0.1, "optimizer": "adamw"}
    x = small(algorithm={"name": "fedavg"}, train={**train, "steps": 4}, data={"max_train_rows": 12})

    def fit(group, steps):
        backbone, _, _, trainer = world(x, tmp_path, group)
        trainer._steps = steps
        start = widen(start_of(x.algorithm, backbone, x.seed), len(group))
        after = trainer.fit(start, penalty=lambda w: sqdist(w, start))
        gradient = trainer.gradient(start)
        return after, gradient, trainer.effort

    both = fit((0, 1), [4, 1])
    for k, steps in enumerate([4, 1]):
        alone = fit((k,), [steps])
        assert both[2].steps[k] == alone[2].steps[0] == steps and both[2].tokens[k] == alone[2].tokens[0]
        assert both[2].loss[k] == pytest.approx(alone[2].loss[0], rel=1e-5)
        for name, t in alone[0].items():
            torch.testing.assert_close(both[0][name][k], t[0], rtol=1e-4, atol=1e-5)


def test_recomputed_training_is_the_same_training(small, tmp_path):
    found = []
    for recompute in (False, True):
        x = small(algorithm={"name": "fedavg", "lora": {"dropout": 0.2}}, train={"recompute": recompute})
        backbone, _, _, trainer = world(x, tmp_path, (0, 1))
        found.append(trainer.fit(widen(start_of(x.algorithm, backbone, x.seed), 2)))
    assert all(torch.equal(t, found[1][name]) for name, t in found[0].items())


class Asking(TorchDispatchMode):
    """Notes every operation that a GPU would have to be waited for: values read, shapes that depend on values."""

    ASK = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple))
        if name in self.ASK or (by_mask and any(t is not None and t.dtype == torch.bool for t in args[1])):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def test_local_steps_never_wait_for_the_device(small, tmp_path):
    # the experts' own forward is apart: on the CPU it reads how many tokens each of them has
    x = small(train={"accumulate": 2})
    trainer = world(x, tmp_path, (0, 1))[-1]
    weights = trainer.fresh(x.algorithm.parts)
    with Asking() as asking:
        trainer.fit(weights)
    assert not asking.found
    with Asking() as asking:
        torch.ones(2)[torch.tensor([True, False])].sum().item()
    assert {"index", "_local_scalar_dense"} <= asking.found
