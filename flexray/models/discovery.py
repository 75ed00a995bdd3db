"""Where a model's MoE blocks are, found by structure, and how their routers score, found by trying them.

Shape suffixes: D width, E experts, I expert width, N flat tokens, k experts per token.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flexray.errors import ConfigError, expected
from flexray.models.family import Block, RouterScores

FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
"""What transformers' experts interface sets on every module that it serves."""
OWN_FAMILY = "describe the model in a family of your own and set model.family to that .py file"
PROBE_TOKENS = 32


def is_experts(module: nn.Module) -> bool:
    return all(hasattr(module, flag) for flag in FLAGS)


def find_blocks(model: nn.Module) -> tuple[Block, ...]:
    """The MoE blocks of a model of the experts interface; a model without any, or with an unknown layout, is refused."""
    found = [name for name, module in model.named_modules() if is_experts(module)]
    if not found:
        raise _no_experts(model)
    return tuple(_block(model, name) for name in found)


def block_notes(model: nn.Module, blocks: tuple[Block, ...]) -> tuple[str, ...]:
    """A line when some layers have no MoE block."""
    layers = {index for name, _ in model.named_modules() if (index := layer_of(name)) is not None}
    have = {b.layer for b in blocks}
    if missing := sorted(layers - have):
        return (f"MoE blocks in {len(have)} of {len(layers)} layers (none in {_ranges(missing)})",)
    return ()


def layer_of(path: str) -> int | None:
    """The number of the decoder layer that a path of modules goes through."""
    return next((int(step) for step in path.split(".") if step.isdigit()), None)


def experts_shape(experts: nn.Module) -> tuple[int, int, int]:
    """(E, D, I) of an experts module, whatever its layout."""
    E, first, second = experts.down_proj.shape
    return (E, second, first) if experts.is_transposed else (E, first, second)


def router_weight(block: Block) -> Tensor:
    """The router's matrix [E, D]: its one parameter of that shape."""
    shape = (block.n_experts, block.width)
    found = [p for p in block.router.parameters() if tuple(p.shape) == shape]
    if len(found) != 1:
        raise expected(
            "model.path", "a router with one matrix [experts, width]", f"{len(found)} of shape {list(shape)} in {block.name}",
            "set algorithm.gate.init to half or closed, which need no row of the router, or " + OWN_FAMILY,
        )  # fmt: skip
    return found[0]


def _no_experts(model: nn.Module) -> ConfigError:
    kind = type(model).__name__
    if any("expert" in name.split(".")[-1].lower() for name, _ in model.named_modules()):
        mend = f"choose another model, or {OWN_FAMILY}"
        return expected("model.path", "an MoE of transformers' experts interface", f"{kind}, an MoE outside of it", mend)
    return expected("model.path", "a mixture-of-experts model", f"{kind}, which is dense", "choose an MoE such as qwen2_moe")


def _block(model: nn.Module, experts_name: str) -> Block:
    name, _, _ = experts_name.rpartition(".")
    steps = name.split(".")
    if len(steps) < 2 or not steps[-2].isdigit():
        raise _unknown(name, "its experts in a block right below a decoder layer", f"experts at {experts_name!r}")
    block, experts = model.get_submodule(name), model.get_submodule(experts_name)
    call = _watch(block, experts, name)
    E, D, I = experts_shape(experts)  # noqa: E741
    if call.width != D:
        raise _unknown(name, "experts of the model's width", f"experts of width {D} in a block of width {call.width}")
    scores, scale = _probe(call)
    return Block(int(steps[-2]), name, block, call.router, experts, scores, scale, E, D, I)


def _unknown(name: str, wanted: str, got: str) -> ConfigError:
    return expected("model.path", f"an MoE block with {wanted}", f"{name}: {got}", f"choose another model, or {OWN_FAMILY}")


@dataclass(frozen=True)
class _Call:
    """How a block calls its router."""

    router: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    width: int


class _Reached(Exception):
    """The block has come to its experts: all that there is to see was seen."""


def _watch(block: nn.Module, experts: nn.Module, name: str) -> _Call:
    """Runs the block up to its experts, to see which child routes and what it is given. Works on the meta device."""
    calls: list[tuple[nn.Module, tuple, dict, Any]] = []
    reached: list[tuple] = []

    def before_experts(_module, args, kwargs):
        reached.append((*args, *kwargs.values()))
        raise _Reached

    hooks = [
        child.register_forward_hook(lambda m, args, kwargs, out: calls.append((m, args, kwargs, out)), with_kwargs=True)
        for child in block.children()
        if child is not experts
    ]
    hooks.append(experts.register_forward_pre_hook(before_experts, with_kwargs=True))
    width = _width(block, experts)
    try:
        with torch.no_grad():
            block(_noise((1, PROBE_TOKENS, width), next(experts.parameters())))
    except _Reached:
        pass
    except Exception as e:
        raise _unknown(name, "a forward of hidden states alone", f"{type(e).__name__}: {e}") from None
    finally:
        for hook in hooks:
            hook.remove()
    routers = [c for c in calls if _routes(c[3])]
    if len(routers) != 1 or not reached:
        names = ", ".join(type(c[0]).__name__ for c in routers) or "none"
        raise _unknown(name, "one router that gives (logits, weights, indices)", names)
    router, args, kwargs, (_, _, index) = routers[0]
    if not _given(reached[0], index):
        raise _unknown(name, "experts called with (tokens [N, D], indices [N, k], weights [N, k])", _shapes(reached[0]))
    return _Call(router, args, kwargs, width)


def _width(block: nn.Module, experts: nn.Module) -> int:
    """The width of the hidden states: the config's, since experts may live in a narrower latent space."""
    config = getattr(experts, "config", None) or getattr(block, "config", None)
    return getattr(config, "hidden_size", None) or experts_shape(experts)[1]


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


def _shapes(args: tuple) -> str:
    return ", ".join(str(list(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in args)


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(like.device, like.dtype)


def _probe(call: _Call) -> tuple[RouterScores, float]:
    """The law of a router and its constant factor, from weights that it gives for random tokens in float32."""
    router = _redrawn(call.router)
    with torch.no_grad():
        logits, weights, index = router(*_inputs(call.args), **_inputs(call.kwargs))
    return match_scores(logits.float(), weights.float(), index)


def match_scores(logits_NE: Tensor, weights_Nk: Tensor, index_Nk: Tensor) -> tuple[RouterScores, float]:
    """Which law gives these weights, and with which constant factor."""
    chosen_Nk = logits_NE.gather(1, index_Nk.clamp(max=logits_NE.shape[1] - 1))
    sigmoid_Nk = chosen_Nk.sigmoid()
    laws: tuple[tuple[RouterScores, Tensor], ...] = (
        ("softmax_all", logits_NE.softmax(1).gather(1, index_Nk.clamp(max=logits_NE.shape[1] - 1))),
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
    generator = torch.Generator().manual_seed(1)
    for t in (*fresh.parameters(), *fresh.buffers()):
        if t.is_floating_point() and (t.dim() >= 2 or bare):
            t.data = torch.randn(t.shape, generator=generator) * max(t.shape[-1:], default=1) ** -0.5
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
        return torch.randn(given.shape, generator=torch.Generator().manual_seed(2))
    return torch.zeros(given.shape, dtype=given.dtype) if given.is_meta else given.cpu()


def _ranges(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:8])
    return shown + (", …" if len(numbers) > 8 else "")
