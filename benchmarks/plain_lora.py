"""Plain LoRA fine-tuning on one device, as one writes it by hand: no federation, transformers' own forwards, torch's optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Row = tuple[np.ndarray, int]
"""Tokens, and where the response starts."""


class Adapted(nn.Module):
    """A frozen linear layer with an adapter, whose numbers have 32 bits and are cast on use."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.base, self.a, self.b, self.scale = base, nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


class Plain:
    """LoRA fine-tuning as one writes it by hand, on transformers' own forwards."""

    def __init__(self, model: Any, start: Mapping[str, Tensor], scale: float, experts: str, recompute: bool):
        """`start`: by lora/<path>/a and /b; scale: alpha / rank; experts: transformers' name of their forward."""
        self.model, self.device = model, next(model.parameters()).device
        self.model.set_attn_implementation("sdpa")
        self.model.set_experts_implementation(experts)
        if recompute:
            self.model.train()
            made_again = getattr(self.model, "activation_checkpointing_enable", self.model.gradient_checkpointing_enable)
            made_again({"use_reentrant": False})
        adapters = []
        for path in dict.fromkeys(name.split("/")[1] for name in start):
            a, b = (start[f"lora/{path}/{side}"].clone().to(self.device) for side in "ab")
            adapters.append(Adapted(self.model.get_submodule(path), a, b, scale))
            self.model.set_submodule(path, adapters[-1])
        self.trained = [p for adapter in adapters for p in (adapter.a, adapter.b)]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0, fused=self.device.type == "cuda")

    def step(self, rows: Sequence[Row]) -> Tensor:
        """One step on rows of one length with one place where the responses begin; the loss before it."""
        ids = torch.from_numpy(np.stack([tokens for tokens, _ in rows]).astype(np.int64)).to(self.device, non_blocking=True)
        answers = ids[:, rows[0][1] :]
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=answers.shape[1] + 1).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), answers.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.detach()
