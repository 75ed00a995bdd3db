"""Training a causal language model on rows of tokens: batches, loss, scores. Plain torch, one process of one or many.

Shapes: B rows, T tokens, E experts, L layers, N = flat tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 16
"""Batches that are sorted by length together: rows of a batch are alike in length, so that little is padded."""


@dataclass(frozen=True)
class Packed:
    """Rows of tokens, end to end: row i is tokens[ends[i-1]:ends[i]], its response from starts[i] on. labels: one per row."""

    tokens: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


def pack(rows: Sequence[tuple[Sequence[int], int]], labels: Sequence[str]) -> Packed:
    """From each row's tokens and the place where its response starts."""
    ends = np.cumsum([len(tokens) for tokens, _ in rows], dtype=np.int64)
    tokens = np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens, _ in rows])
    return Packed(tokens, ends, np.array([start for _, start in rows], dtype=np.int32), tuple(labels))


@dataclass(frozen=True)
class Batch:
    """ids, and as long as they: mask (1 where there is a token), weight (of the loss on predicting that token)."""

    ids_BT: Tensor
    mask_BT: Tensor
    weight_BT: Tensor

    def part(self, rank: int, parts: int) -> Batch:
        """Every so manieth row."""
        return Batch(self.ids_BT[rank::parts], self.mask_BT[rank::parts], self.weight_BT[rank::parts])

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids_BT.to(device), self.mask_BT.to(device), self.weight_BT.to(device))


def make_batch(packed: Packed, numbers: np.ndarray, prompt_weight: float) -> Batch:
    """Rows padded on the right to the longest. A response token weighs 1, a prompt token prompt_weight, padding 0."""
    lengths = packed.lengths[numbers]
    column_T = np.arange(lengths.max())
    mask_BT = column_T < lengths[:, None]
    first = packed.ends[numbers] - lengths
    ids_BT = packed.tokens[np.where(mask_BT, first[:, None] + column_T, 0)] * mask_BT
    weight_BT = np.where(column_T >= packed.starts[numbers, None], 1.0, prompt_weight) * mask_BT * (column_T > 0)
    as_long = torch.from_numpy(ids_BT.astype(np.int64)), torch.from_numpy(mask_BT.astype(np.int64))
    return Batch(*as_long, torch.from_numpy(weight_BT.astype(np.float32)))


def batch_numbers(lengths: np.ndarray, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of batch after batch, without end: shuffled epochs, like lengths together. Pure in its arguments."""
    rng = np.random.default_rng([seed, 5])
    batch = min(batch, len(lengths))
    while True:
        epoch = rng.permutation(len(lengths))
        epoch = epoch[: len(epoch) // batch * batch]
        for chunk in np.split(epoch, range(CHUNK * batch, len(epoch), CHUNK * batch)):
            sorted_chunk = chunk[np.argsort(lengths[chunk], kind="stable")].reshape(-1, batch)
            yield from sorted_chunk[rng.permutation(len(sorted_chunk))]


def token_loss(logits_BTV: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each next token [B, T-1], unweighted."""
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), batch.ids_BT[:, 1:].flatten(), reduction="none").view(
        batch.ids_BT.shape[0], -1
    )


def balance_loss(router_logits: Sequence[Tensor], mask_BT: Tensor, top_k: int) -> Tensor:
    """How unevenly tokens spread over the experts: 1 when evenly, up to E / top_k; the mean over layers.

    Fedus et al. 2021 (arXiv 2101.03961), eq. 4, with f counted over all top_k choices, each layer on its own.
    """
    seen_N = mask_BT.flatten().bool()
    losses = []
    for logits_NE in router_logits:
        probabilities_NE = logits_NE[seen_N].float().softmax(-1)
        share_E = chosen(probabilities_NE, top_k).float().mean(0) / top_k
        losses.append(probabilities_NE.shape[-1] * (share_E * probabilities_NE.mean(0)).sum())
    return torch.stack(losses).mean()


def chosen(scores_NE: Tensor, top_k: int) -> Tensor:
    """1 where an expert is among a token's top_k, else 0; [N, E]."""
    return torch.zeros_like(scores_NE, dtype=torch.int64).scatter_(1, scores_NE.topk(top_k, dim=-1).indices, 1)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to the peak, then a cosine down to a twentieth of it. `step` counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    fallen = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fallen)))


def optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


@dataclass(frozen=True)
class Scores:
    """Of held-out rows, per label: rows, loss per response token, rows whose greedy answer is right, each expert's share."""

    rows: dict[str, int]
    loss: dict[str, float]
    exact_match: dict[str, float]
    expert_share: dict[str, list[list[float]]]

    def overall(self) -> dict[str, float]:
        """Means over labels, and the share of the least used expert of any layer (1 / E when all are used alike)."""
        shares = torch.tensor(list(self.expert_share.values())).mean(0)
        mean = {"loss": sum(self.loss.values()), "exact_match": sum(self.exact_match.values())}
        return {k: v / len(self.rows) for k, v in mean.items()} | {"least_used_expert": shares.min().item()}


@torch.no_grad()
def score(model: nn.Module, packed: Packed, top_k: int, device: torch.device, batch: int = 128) -> Scores:
    """Greedy decoding gives the response exactly when each of its tokens is the likeliest after the right ones before."""
    rows: dict[str, list[Any]] = {label: [] for label in sorted(set(packed.labels))}
    by_length = np.argsort(packed.lengths, kind="stable")
    for numbers in np.split(by_length, range(batch, len(packed), batch)):
        b = make_batch(packed, numbers, 0.0).to(device)
        out = model(input_ids=b.ids_BT, attention_mask=b.mask_BT, output_router_logits=True)
        weight_BT, loss_BT = b.weight_BT[:, 1:], token_loss(out.logits, b)
        wrong_B = ((out.logits[:, :-1].argmax(-1) != b.ids_BT[:, 1:]) & (weight_BT > 0)).any(1)
        used_BLE = _used(out.router_logits, b.mask_BT, top_k)
        sums = torch.stack([(loss_BT * weight_BT).sum(1), weight_BT.sum(1), 1.0 - wrong_B.float()], 1).cpu()
        for i, number in enumerate(numbers):
            rows[packed.labels[number]].append((*sums[i].tolist(), used_BLE[i].cpu()))
    return _scores(rows)


def _used(router_logits: Sequence[Tensor], mask_BT: Tensor, top_k: int) -> Tensor:
    """How many of a row's tokens went to each expert; [B, L, E]."""
    B, T = mask_BT.shape
    return torch.stack([(chosen(z, top_k).view(B, T, -1) * mask_BT[..., None]).sum(1) for z in router_logits], 1)


def _scores(rows: dict[str, list[Any]]) -> Scores:
    loss, exact, share = {}, {}, {}
    for label, own in rows.items():
        losses, weights, hits, used = zip(*own, strict=True)
        loss[label] = sum(losses) / sum(weights)
        exact[label] = sum(hits) / len(hits)
        used_LE = torch.stack(used).sum(0).double()
        share[label] = (used_LE / used_LE.sum(-1, keepdim=True)).tolist()
    return Scores({label: len(own) for label, own in rows.items()}, loss, exact, share)
