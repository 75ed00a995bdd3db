"""Local training against plain PyTorch, and the contract's small print."""

import numpy as np
import pytest
import torch
from torch import nn

from flexray.data.clients import order
from flexray.data.corpus import Corpus
from flexray.models import backbone as backbones
from flexray.models.seats import Seats
from flexray.sim.lm import collate
from flexray.sim.newcomers import start_of
from flexray.sim.plan import prepare
from flexray.sim.trainer import SeatTrainer, rate
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
    clients = [job.clients[number] for number in group]
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
