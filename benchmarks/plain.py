"""FLEx's client by hand: plain modules on the transformers model, torch's optimizer, no federation, nothing of flexray's.

What a careful person would write for one client and nothing else. Parameters are named as flexray names them, so that
states can be exchanged and results compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

Row = tuple[np.ndarray, int]
"""Tokens, and where the response starts."""
State = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """What one client does: rows[round][step] are the rows of one step. Values that any process understands."""

    model: str
    lora_scale: float
    rates: tuple[float, ...]
    clip: float
    weight: float
    start: State
    rows: list[list[list[Row]]]

    def tokens_in(self, rounds: int) -> int:
        """How many tokens the first so many rounds train on."""
        return sum(len(tokens) for round in self.rows[:rounds] for step in round for tokens, _ in step)

    @property
    def padding(self) -> float:
        """Positions that a batch as wide as its longest row has, for each token in it."""
        wide = sum(len(step) * max(len(tokens) for tokens, _ in step) for round in self.rows for step in round)
        return wide / self.tokens_in(len(self.rows))


class Adapted(nn.Module):
    """A frozen linear layer with an adapter."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.base, self.a, self.b, self.scale = base, nn.Parameter(a.clone()), nn.Parameter(b.clone()), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a), self.b)


class Personal(nn.Module):
    """A frozen MoE block with a gated private expert."""

    def __init__(self, block: nn.Module, gate_up: Tensor, down: Tensor, weight: Tensor, bias: Tensor):
        super().__init__()
        self.block = block
        self.gate_up, self.down = nn.Parameter(gate_up.clone()), nn.Parameter(down.clone())
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.gate_up).chunk(2, -1)
        private = F.linear(F.silu(gate) * up, self.down)
        return self.block(x) + F.linear(x, self.weight, self.bias).sigmoid() * private


class Model:
    """The model with one client's adapters, experts and gates."""

    def __init__(self, work: Work, experts: str):
        self.net = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).eval().requires_grad_(False)
        self.net.set_experts_implementation(experts)
        self.parameters: dict[str, nn.Parameter] = {}
        sites = dict.fromkeys(name.rpartition("/")[0] for name in work.start)
        for site in (s for s in sites if s.startswith("lora/")):
            self._adapt(site, work)
        for site in (s for s in sites if s.startswith("expert/")):
            self._graft(site.removeprefix("expert/"), work.start)

    def _adapt(self, site: str, work: Work) -> None:
        path = site.removeprefix("lora/")
        made = Adapted(self.net.get_submodule(path), work.start[f"{site}/a"], work.start[f"{site}/b"], work.lora_scale)
        self.net.set_submodule(path, made)
        self.parameters |= {f"{site}/a": made.a, f"{site}/b": made.b}

    def _graft(self, path: str, start: State) -> None:
        names = {"gate_up": f"expert/{path}/gate_up", "down": f"expert/{path}/down"}
        gate = {"weight": f"gate/{path}/weight", "bias": f"gate/{path}/bias"}
        own = {short: start[name][0] for short, name in names.items()}
        made = Personal(self.net.get_submodule(path), **own, **{short: start[name] for short, name in gate.items()})
        self.net.set_submodule(path, made)
        self.parameters |= {name: getattr(made, short) for short, name in (names | gate).items()}

    def load(self, state: State) -> None:
        with torch.no_grad():
            for name, t in state.items():
                if name in self.parameters:
                    self.parameters[name].copy_(t.view_as(self.parameters[name]))

    def dump(self) -> State:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def loss(self, rows: Sequence[Row]) -> Tensor:
        """Mean over the batch's response tokens; logits only where a response can be."""
        ids, labels = collate(rows)
        first = min(start for _, start in rows)
        logits = self.net(input_ids=ids, use_cache=False, logits_to_keep=ids.shape[1] - first + 1).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), labels[:, first:].flatten(), ignore_index=-100)


def collate(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and the labels: −100 but for the response."""
    width = max(len(tokens) for tokens, _ in rows)
    ids, labels = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -100)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)] = tokens
        labels[i, start : len(tokens)] = tokens[start:]
    return torch.from_numpy(ids), torch.from_numpy(labels)


def train(model: Model, work: Work, rounds: range) -> None:
    """The client's steps in these rounds, one after another; the optimizer starts afresh in each."""
    for round in rounds:
        optimizer = torch.optim.AdamW(model.parameters.values(), lr=work.rates[round], weight_decay=0.0)
        for rows in work.rows[round]:
            loss = model.loss(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters.values(), work.clip)
            optimizer.step()


def mean(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The weighted sum."""
    return torch.stack([weight * t for t, weight in terms]).sum(0)
