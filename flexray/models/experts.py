"""The forward of experts, for every layout of transformers' experts interface.

Tokens are sorted by expert once (`rows.py`), a rule chooses kernels (`grouping.py`), and plain experts are one step of autograd
(`fused.py`), others and small ones a few (`chain.py`). Nothing is computed for what is frozen, and each sum has a fixed order.
Shape suffixes: D width, E experts, N flat tokens, k experts per token, R rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flexray.models import chain
from flexray.models.fused import Work, fused
from flexray.models.gating import ByAutograd, SiluGate
from flexray.models.grafted import entry, normed, stored
from flexray.models.rows import Rows, sorted_rows

NAME = "flexray"
"""The name under which transformers knows this forward."""
RECOMPUTE = "flexray_recompute"
"""The same numbers with less memory: what lies between input and output is computed again in backward."""


def register() -> None:
    """Makes both forwards known to transformers' experts interface."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    ALL_EXPERTS_FUNCTIONS.register(RECOMPUTE, recomputing_forward)


def recomputing_forward(self: Any, hidden_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor) -> Tensor:
    """`experts_forward` that keeps its inputs alone for backward."""
    return experts_forward(self, hidden_ND, index_Nk, weight_Nk, recompute=True)


def experts_forward(self: Any, hidden_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor, recompute: bool = False) -> Tensor:
    """The weighted sum over each token's experts, [N, D]; an index from E on stands for no expert."""
    x_ND, rows, weight_Nk = sort(self, hidden_ND, index_Nk, weight_Nk)
    quicker_in_steps = rows.small and not recompute and weight_Nk.dtype == x_ND.dtype
    if not quicker_in_steps and is_plain(self):
        out_ND = _in_one(self, x_ND, rows, weight_Nk, recompute)
    elif recompute and torch.is_grad_enabled():
        out_ND = checkpoint(_in_steps, self, x_ND, rows, weight_Nk, use_reentrant=False, preserve_rng_state=False)
    else:
        out_ND = _in_steps(self, x_ND, rows, weight_Nk)
    return out_ND.to(hidden_ND.dtype)


def sort(e: Any, hidden_ND: Tensor, index_Nk: Tensor, weight_Nk: Tensor) -> tuple[Tensor, Rows, Tensor]:
    """Tokens in the weights' dtype, their rows, and the routing weights of pairs that have an expert."""
    down = e.down_proj
    E, I = down.shape[0], down.shape[1 if e.is_transposed else 2]  # noqa: E741
    x_ND = hidden_ND.to(down.dtype)
    rows = sorted_rows(index_Nk, E, x_ND, 2 * I if e.has_gate else I, I)
    return x_ND, rows, weight_Nk if rows.absent_Nk is None else weight_Nk.masked_fill(rows.absent_Nk, 0)


def linear(e: Any, name: str, x_RX: Tensor, rows: Rows) -> Tensor:
    """One projection of every row by its expert."""
    y_RY = chain.multiplied(x_RX, getattr(e, f"{name}_proj"), e.is_transposed, rows.groups)
    return y_RY + getattr(e, f"{name}_proj_bias")[rows.expert_R] if e.has_bias else y_RY


def _in_steps(e: Any, x_ND: Tensor, rows: Rows, weight_Nk: Tensor) -> Tensor:
    h_RI = _activated(e, linear(e, entry(e), chain.gathered(x_ND, rows), rows))
    return chain.combined(normed(e, linear(e, "down", h_RI, rows)), weight_Nk, rows)


def _in_one(e: Any, x_ND: Tensor, rows: Rows, weight_Nk: Tensor, recompute: bool) -> Tensor:
    of, first = stored(e), entry(e)
    gating = SiluGate() if is_silu_gate(e) else ByAutograd(lambda h_RH: _activated(e, h_RH))
    work = Work(rows, e.is_transposed, gating, recompute)
    return fused(work, x_ND, weight_Nk, of[first], of["down"], of.get(f"{first}_bias"), of.get("down_bias"))


def _activated(e: Any, h_RH: Tensor) -> Tensor:
    return e._apply_gate(h_RH) if e.has_gate else e.act_fn(h_RH)


def is_plain(e: Any) -> bool:
    """Whether there is nothing but two projections and an activation, and no more than the matrices is trained."""
    return not getattr(e, "has_post_expert_norm", False) and not _trains_more(e, (getattr(e, f"{entry(e)}_proj"), e.down_proj))


def _trains_more(module: nn.Module, than: tuple[Tensor, ...]) -> bool:
    # Not by module.parameters(), which takes 20 µs.
    own = any(p is not None and p.requires_grad and not any(p is t for t in than) for p in module._parameters.values())
    return own or any(_trains_more(child, than) for child in module._modules.values() if child is not None)


def is_silu_gate(e: Any) -> bool:
    if not e.has_gate or not _splits_in_halves(type(e)):
        return False
    return e.act_fn is F.silu or type(e.act_fn) in _silus()


@cache
def _silus() -> tuple[type, ...]:
    from transformers.activations import SiLUActivation

    return nn.SiLU, SiLUActivation


@cache
def _splits_in_halves(kind: type) -> bool:
    """Whether a class has transformers' own way to apply the gate."""
    from transformers.integrations import moe

    return getattr(kind, "_apply_gate", None) is getattr(moe, "_default_apply_gate", kind)
