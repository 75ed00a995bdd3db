"""How a block calls its router, and by which law the router scores: found by trying, not by reading names.

Shape suffixes: D width, E experts, N flat tokens, k experts per token.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flexray.models.family import RouterScores

TOKENS = 32


@dataclass(frozen=True)
class Call:
    """How a block calls its router."""

    router: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    width: int


class _Reached(Exception):
    """The block has come to its experts: all that there is to see was seen."""


def watch(block: nn.Module, experts: nn.Module, width: int) -> Call | tuple[str, str]:
    """Runs a block up to its experts, to see which child routes; or what was expected of it and what it does instead.

    Works on the meta device too, where values cannot be compared and shapes must do.
    """
    calls: list[tuple[nn.Module, tuple, dict, Any]] = []
    reached: list[tuple] = []

    def before_experts(_module, args, kwargs):
        reached.append((*args, *kwargs.values()))
        raise _Reached

    others = [child for child in block.children() if child is not experts]
    hooks = [c.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True) for c in others]
    hooks.append(experts.register_forward_pre_hook(before_experts, with_kwargs=True))
    like = next(experts.parameters())
    x_ND = _noise((TOKENS, width), 0).to(like.device, like.dtype)
    try:
        with torch.no_grad():
            block(x_ND[None])
    except _Reached:
        pass
    except Exception as e:
        return "a forward of hidden states alone", f"{type(e).__name__}: {e}"
    finally:
        for hook in hooks:
            hook.remove()
    return _understand(calls, reached, x_ND)


def _understand(calls: list[tuple], reached: list[tuple], x_ND: Tensor) -> Call | tuple[str, str]:
    routers = [c for c in calls if _routes(c[3])]
    if len(routers) != 1 or not reached:
        return "one router that gives (logits, weights, indices)", ", ".join(type(c[0]).__name__ for c in routers) or "none"
    module, args, kwargs, (_, _, index_Nk) = routers[0]
    if not _given(reached[0], index_Nk):
        shapes = ", ".join(str(list(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in reached[0])
        return "experts called with (tokens [N, D], indices [N, k], weights [N, k])", shapes
    given_ND = reached[0][0]
    if given_ND.shape == x_ND.shape and not x_ND.is_meta and not torch.equal(given_ND, x_ND):
        return "experts that see the block's own input", "experts that see it changed"
    return Call(module, args, kwargs, x_ND.shape[1])


def _routes(out: Any) -> bool:
    """Whether this is (logits [N, E], weights [N, k], indices [N, k])."""
    return (
        isinstance(out, tuple)
        and len(out) == 3
        and all(isinstance(t, Tensor) and t.dim() == 2 for t in out)
        and out[1].shape == out[2].shape
        and not out[2].is_floating_point()
    )


def _given(args: tuple, index_Nk: Tensor) -> bool:
    """Whether experts were called with (tokens [N, D], the router's indices [N, k], weights [N, k])."""
    if len(args) != 3 or not all(isinstance(t, Tensor) and t.dim() == 2 for t in args):
        return False
    same = args[1] is index_Nk or args[1].is_meta or torch.equal(args[1], index_Nk)
    return args[1].shape == args[2].shape == index_Nk.shape and len(args[0]) == len(index_Nk) and same


def measure_scores(call: Call) -> tuple[RouterScores, float]:
    """The law of a router and its constant factor, from the weights that it gives for random tokens in float32."""
    router = _redrawn(call.router)
    with torch.no_grad():
        logits, weights, index = router(*_inputs(call.args), **_inputs(call.kwargs))
    return match_scores(logits.float(), weights.float(), index)


def match_scores(logits_NE: Tensor, weights_Nk: Tensor, index_Nk: Tensor) -> tuple[RouterScores, float]:
    """Which law gives these weights, and with which constant factor."""
    index_Nk = index_Nk.clamp(max=logits_NE.shape[1] - 1)
    chosen_Nk = logits_NE.gather(1, index_Nk)
    sigmoid_Nk = chosen_Nk.sigmoid()
    laws: tuple[tuple[RouterScores, Tensor], ...] = (
        ("softmax_all", logits_NE.softmax(1).gather(1, index_Nk)),
        ("softmax_topk", chosen_Nk.softmax(1)),
        ("sigmoid", sigmoid_Nk),
        ("sigmoid", sigmoid_Nk / sigmoid_Nk.sum(1, keepdim=True)),
    )
    for name, law_Nk in laws:
        ratio_Nk = weights_Nk / law_Nk
        scale = float(ratio_Nk.median())
        if scale > 0 and bool(((ratio_Nk / scale - 1).abs() < 1e-3).all()):
            return name, float(f"{scale:.5g}")
    return "other", 1.0


def _redrawn(router: nn.Module) -> nn.Module:
    """The router in float32 on the CPU with random matrices: of sure, or of untrained ones, all laws may look alike."""
    bare = any(t.is_meta for t in (*router.parameters(), *router.buffers()))
    fresh = copy.deepcopy(router)
    fresh = (fresh.to_empty(device="cpu") if bare else fresh.cpu()).float()
    for t in (*fresh.parameters(), *fresh.buffers()):
        if t.is_floating_point() and (t.dim() >= 2 or bare):
            t.data = _noise(t.shape, 1) * max(t.shape[-1:], default=1) ** -0.5
    return fresh


def _inputs(given: Any) -> Any:
    """The arguments of a call with random tokens for the hidden states, and the rest as it is (zero on meta)."""
    if isinstance(given, dict):
        return {key: _inputs(value) for key, value in given.items()}
    if isinstance(given, tuple):
        return tuple(_inputs(value) for value in given)
    if not isinstance(given, Tensor):
        return given
    if given.dim() >= 2 and given.is_floating_point():
        return _noise(given.shape, 2)
    return torch.zeros(given.shape, dtype=given.dtype) if given.is_meta else given.cpu()


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
