"""Where a model's MoE blocks are, found by their structure.

Shape suffixes: D width, E experts, I expert width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flexray.errors import ConfigError, expected
from flexray.models.family import Block
from flexray.models.probing import Call, measure_scores, watch

FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
"""What transformers' experts interface sets on every module that it serves."""
OWN_FAMILY = "describe the model in a family of your own and set model.family to that .py file"


def find_blocks(model: nn.Module) -> tuple[Block, ...]:
    """The MoE blocks of a model of the experts interface; a model without any, or with an unknown layout, is refused."""
    found = [name for name, module in model.named_modules() if is_experts(module)]
    if not found:
        raise _no_experts(model)
    return tuple(_block(model, name) for name in found)


def is_experts(module: nn.Module) -> bool:
    return all(hasattr(module, flag) for flag in FLAGS)


def experts_shape(experts: Any) -> tuple[int, int, int]:
    """(E, D, I) of an experts module, whatever its layout."""
    E, first, second = experts.down_proj.shape
    return (E, second, first) if experts.is_transposed else (E, first, second)


def router_weight(block: Block) -> Tensor:
    """The router's matrix [E, D]: its one parameter of that shape."""
    shape = (block.n_experts, block.width)
    found = [p for p in block.router.parameters() if tuple(p.shape) == shape]
    if len(found) == 1:
        return found[0]
    got = f"{len(found)} of shape {list(shape)} in {block.name}"
    mend = f"set algorithm.gate.init to half or closed, which need no row of the router, or {OWN_FAMILY}"
    raise expected("model.path", "a router with one matrix [experts, width]", got, mend)


def layers(model: nn.Module) -> dict[str, int]:
    """The number of the decoder layer that each module is in or is, by path; a module outside of them has no entry.

    Decoder layers are those of the lists that hold MoE blocks, so that a vision tower's are none.
    """
    stacks = {".".join(name.split(".")[:-3]) for name, module in model.named_modules() if is_experts(module)}
    numbers = {}
    for path, _ in model.named_modules():
        stack = next((s for s in stacks if path.startswith(f"{s}.")), None)
        if stack is not None:
            numbers[path] = int(path[len(stack) + 1 :].split(".")[0])
    return numbers


def block_notes(model: nn.Module, blocks: tuple[Block, ...]) -> tuple[str, ...]:
    """A line when some layers have no MoE block."""
    every, have = set(layers(model).values()), {b.layer for b in blocks}
    return (f"MoE blocks in {len(have)} of {len(every)} layers",) if every - have else ()


def _block(model: nn.Module, experts_name: str) -> Block:
    name = experts_name.rpartition(".")[0]
    steps = name.split(".")
    if len(steps) < 2 or not steps[-2].isdigit():
        raise _unknown(name, "its experts in a block right below a decoder layer", f"experts at {experts_name!r}")
    block, experts = model.get_submodule(name), model.get_submodule(experts_name)
    E, D, I = experts_shape(experts)  # noqa: E741
    call = watch(block, experts, getattr(getattr(experts, "config", None), "hidden_size", D))
    if not isinstance(call, Call):
        raise _unknown(name, *call)
    if call.width != D:
        raise _unknown(name, "experts of the model's width", f"experts of width {D} in a block of width {call.width}")
    scores, scale = measure_scores(call)
    return Block(int(steps[-2]), name, block, call.router, experts, scores, scale, E, D, I)


def _no_experts(model: nn.Module) -> ConfigError:
    kind = type(model).__name__
    if any("expert" in name.split(".")[-1].lower() for name, _ in model.named_modules()):
        got, mend = f"{kind}, an MoE outside of it", "choose one of it, such as qwen2_moe, mixtral or deepseek_v3"
        return expected("model.path", "an MoE of transformers' experts interface", got, mend)
    return expected("model.path", "a mixture-of-experts model", f"{kind}, which is dense", "choose an MoE such as qwen2_moe")


def _unknown(name: str, wanted: str, got: str) -> ConfigError:
    return expected("model.path", f"an MoE block with {wanted}", f"{name}: {got}", f"choose another model, or {OWN_FAMILY}")
